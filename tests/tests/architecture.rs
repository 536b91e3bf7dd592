//! Holds the code to what `crates/README.md` and the style say: edges between crates, sizes, headers.
//!
//! A wrong edge or a file that has grown beyond reading fails here, with the line to look at.

#![expect(clippy::unwrap_used, reason = "in a test a panic is how it fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use adit_tests::sources::{root, rust_files};

/// Code lines of a source file without its tests, above which a reader scrolls too long.
const LONGEST_FILE: usize = 600;
/// Half of all source files are at most this long.
const MEDIAN_FILE: usize = 200;

struct Row {
    uses: BTreeSet<String>,
    owns: BTreeSet<String>,
    also: BTreeSet<String>,
}

fn table() -> BTreeMap<String, Row> {
    let text = std::fs::read_to_string(root().join("crates/README.md")).unwrap();
    let list = |cell: &str| -> BTreeSet<String> {
        cell.split(',').map(|s| s.trim().to_owned()).filter(|s| s != "–").collect()
    };
    let rows = text.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| crate "));
    rows.map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let row = Row { uses: list(cells[3]), owns: list(cells[4]), also: list(cells[5]) };
        (cells[1].to_owned(), row)
    })
    .collect()
}

/// Direct dependencies of each crate, as cargo reads them; test-only ones are left out.
fn graph() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let out = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let normal = |p: &serde_json::Value| {
        let dependencies = p["dependencies"].as_array().unwrap().iter();
        let normal = dependencies.filter(|d| d["kind"].is_null());
        // A renamed dependency is known by the name that the code uses.
        normal
            .map(|d| d["rename"].as_str().or_else(|| d["name"].as_str()).unwrap().to_owned())
            .collect::<BTreeSet<_>>()
    };
    packages.iter().map(|p| (p["name"].as_str().unwrap().to_owned(), normal(p))).collect()
}

#[test]
fn the_crate_table_is_the_real_graph() {
    let (table, graph) = (table(), graph());
    let mut wrong = Vec::new();
    for (name, row) in &table {
        let Some(real) = graph.get(&format!("adit-{name}")) else {
            wrong.push(format!("{name} is in the table and not in the workspace"));
            continue;
        };
        for dependency in real {
            match dependency.strip_prefix("adit-") {
                Some(ours) if !row.uses.contains(ours) => {
                    wrong.push(format!("{name} uses {ours}, which the table does not say"));
                }
                None if !row.owns.contains(dependency) && !row.also.contains(dependency) => {
                    wrong.push(format!("{name} depends on {dependency}, which it does not list"));
                }
                _ => {}
            }
        }
    }
    let code = graph.keys().filter(|n| !["adit-tests", "adit-benches"].contains(&n.as_str()));
    for package in code {
        let name = package.strip_prefix("adit-").unwrap();
        if !table.contains_key(name) {
            wrong.push(format!("{name} is missing from the table"));
        }
        for (owner, row) in &table {
            let taken = graph[package].intersection(&row.owns);
            for dependency in taken.filter(|d| owner != name && !table[name].owns.contains(*d)) {
                wrong.push(format!("{dependency} belongs to {owner}, and {name} depends on it"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Lines that are neither blank, comment, nor part of the test module at the end.
fn code_lines(text: &str) -> usize {
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
    code.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("//")).count()
}

fn is_test(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.ends_with("tests.rs") || text.starts_with("tests/") || text.contains("/tests/")
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let sources: Vec<_> = rust_files().into_iter().filter(|(p, _)| !is_test(p)).collect();
    let mut lengths: Vec<usize> = sources.iter().map(|(_, text)| code_lines(text)).collect();
    let long: Vec<String> = sources
        .iter()
        .filter(|(_, text)| code_lines(text) > LONGEST_FILE)
        .map(|(path, text)| format!("{}: {} code lines", path.display(), code_lines(text)))
        .collect();
    assert!(long.is_empty(), "longer than {LONGEST_FILE}:\n{}", long.join("\n"));
    lengths.sort_unstable();
    let median = lengths[lengths.len() / 2];
    assert!(median <= MEDIAN_FILE, "the median file has {median} code lines");
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<String> = rust_files()
        .iter()
        .filter(|(path, text)| !is_test(path) && !text.starts_with("//!"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "no //! header:\n{}", silent.join("\n"));
    let old: Vec<_> = rust_files().into_iter().filter(|(p, _)| p.ends_with("mod.rs")).collect();
    assert!(old.is_empty(), "foo.rs and foo/ rather than mod.rs: {old:?}");
}

/// Crates with their versions and features, as cargo resolves them for a build of `selection`. The target is named, so
/// that what build scripts use is told apart.
fn features(selection: &[&str]) -> BTreeSet<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let out = Command::new(cargo)
        .args(["tree", "--locked", "--offline", "--edges", "normal,build", "--prefix", "none"])
        .args(["--format", "{p} {f}", "--target", "host-tuple"])
        .args(selection)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let lines = String::from_utf8(out.stdout).unwrap();
    lines.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

/// A single build serves users, suites and image, so the programs of tests and benches must not add features to what the
/// product is made of: it would be compiled twice, and what is tested would not be what is used.
#[test]
fn the_product_has_the_same_features_whatever_is_built_beside_it() {
    let (product, all) = (features(&["--package", "adit-cli"]), features(&["--workspace"]));
    let differing: Vec<_> = product.difference(&all).collect();
    assert!(differing.is_empty(), "with other features in the workspace: {differing:#?}");
}
