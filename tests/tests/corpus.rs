//! Replays what fuzzing found worth keeping: each file of `fuzz/corpus/` through the property of its folder.

use std::fs;
use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "a crate of its own where it fuzzes")]
mod properties;

/// A fuzz target and its property.
type FuzzTarget = (&'static str, fn(&[u8]));

const TARGETS: [FuzzTarget; 7] = [
    ("config", properties::config),
    ("control", properties::control),
    ("header", properties::header),
    ("join", properties::join),
    ("report", properties::report),
    ("spiffe", properties::spiffe),
    ("state", properties::state),
];

#[test]
fn every_input_of_the_corpus_keeps_its_property() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (name, property) in TARGETS {
        let mut inputs = 0;
        for file in fs::read_dir(fuzz.join("corpus").join(name)).unwrap() {
            property(&fs::read(file.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs > 0, "no corpus for {name}");
    }
    let targets = fs::read_dir(fuzz.join("fuzz_targets")).unwrap().count();
    assert_eq!(targets, TARGETS.len(), "a target is missing here");
}
