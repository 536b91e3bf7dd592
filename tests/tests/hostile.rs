//! Attacks on a real node in namespaces, in their short form: what is counted, not what is timed.
//!
//! Beside each attack honest requests must all be answered, idle streams must live, a known node's
//! handshakes must succeed, the victim's memory must stay within its bound, and its streams and
//! descriptors must be back at base soon after. The long form, with rates, percentiles and processor time,
//! is the program `hostile`.

use std::path::Path;

use adit_tests::hostile::attacks::ALL;
use adit_tests::hostile::judge::{Court, Form, Trial};
use adit_tests::lab;

/// The victim's memory in MiB.
const MEMORY: u64 = 256;

#[test]
fn no_linked_cluster_or_stranger_harms_a_neighbour() {
    lab::run("no_linked_cluster_or_stranger_harms_a_neighbour", || {
        let mut court = Court::open(Some(MEMORY), Path::new(env!("CARGO_BIN_EXE_hostile")));
        let mut bitten = Vec::new();
        println!("{}", Trial::COLUMNS);
        for attack in ALL {
            let Some((part, seconds)) = attack.short else { continue };
            let form = Form { seconds, part, recovery: 30.0, timed: false };
            let trial = court.try_attack(attack, form);
            println!("{}\n    {}", trial.row(), trial.details());
            bitten.extend(trial.faults().into_iter().map(|f| format!("{}: {f}", attack.name)));
        }
        bitten.extend(court.close());
        assert!(bitten.is_empty(), "\n{}", bitten.join("\n"));
    });
}
