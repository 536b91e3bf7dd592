//! Holds the modules of each crate to one direction: no two files need each other, by whatever way.
//!
//! A root may name its own children, which it re-exports; everything else that a `use` line or a path names is an edge.
//! Test modules are left out.

#![expect(clippy::unwrap_used, reason = "in a test a panic is how it fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A module by its path in the crate; empty for the crate's root.
type ModulePath = Vec<String>;

/// The paths that a `use` tree stands for.
fn expand(tree: &str) -> Vec<String> {
    let Some(open) = tree.find('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().trim().to_owned()];
    };
    let (prefix, body) = (tree[..open].trim(), &tree[open + 1..tree.rfind('}').unwrap()]);
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for c in body.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(c);
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.flat_map(|part| expand(&format!("{prefix}{part}"))).collect()
}

/// The paths into the own crate that a file names, its tests left out.
fn named_paths(text: &str) -> Vec<String> {
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let is_own =
        |path: &str| ["crate::", "super::", "self::"].iter().any(|own| path.starts_with(own));
    let code: Vec<&str> =
        product.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let mut found = Vec::new();
    for statement in code.split(';') {
        let at = statement.rfind("use ").filter(|at| {
            let before = statement[..*at].trim_end();
            before.is_empty() || before.ends_with([')', '}', ']', '\n']) || before.ends_with("pub")
        });
        let tree =
            at.map(|at| statement[at + 4..].split_whitespace().collect::<Vec<_>>().join(" "));
        found.extend(tree.filter(|tree| is_own(tree)).into_iter().flat_map(|tree| expand(&tree)));
    }
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    found.extend(code.split(|c| !is_path(c)).filter(|path| is_own(path)).map(str::to_owned));
    found
}

/// The module that a path leads to, as far as it names modules.
fn resolve(from: &ModulePath, path: &str, modules: &BTreeMap<ModulePath, String>) -> ModulePath {
    let mut at = from.clone();
    let mut parts = path.split("::").filter(|part| !part.is_empty()).peekable();
    while let Some(part) = parts.peek().copied() {
        match part {
            "crate" => at.clear(),
            "super" => drop(at.pop()),
            "self" => {}
            _ => break,
        }
        parts.next();
    }
    for part in parts {
        at.push(part.to_owned());
        if !modules.contains_key(&at) {
            at.pop();
            break;
        }
    }
    at
}

fn collect(folder: &Path, at: &ModulePath, into: &mut BTreeMap<ModulePath, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut module = at.clone();
        if name != "lib" {
            module.push(name.clone());
        }
        if ["main", "tests", "testing"].contains(&name.as_str()) {
        } else if path.is_dir() {
            collect(&path, &module, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.insert(module, std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// Every module that can be reached from `from` by the edges.
fn reachable<'a>(
    from: &'a ModulePath,
    edges: &'a BTreeMap<ModulePath, BTreeSet<ModulePath>>,
) -> BTreeSet<&'a ModulePath> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(module) = next.pop() {
        for to in edges.get(module).into_iter().flatten() {
            if seen.insert(to) {
                next.push(to);
            }
        }
    }
    seen
}

fn circles(modules: &BTreeMap<ModulePath, String>) -> Vec<String> {
    let edges_of = |from: &ModulePath, text: &String| {
        let named = named_paths(text).into_iter().map(|path| resolve(from, &path, modules));
        named.filter(|to| !to.starts_with(from)).collect::<BTreeSet<_>>()
    };
    let edges: BTreeMap<ModulePath, BTreeSet<ModulePath>> =
        modules.iter().map(|(from, text)| (from.clone(), edges_of(from, text))).collect();
    let in_circle = modules.keys().filter(|module| reachable(module, &edges).contains(module));
    in_circle.map(|module| module.join("::")).collect()
}

#[test]
fn no_two_modules_of_a_crate_need_each_other() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("crates");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(crates).unwrap() {
        let source = entry.unwrap().path().join("src");
        if !source.is_dir() {
            continue;
        }
        let mut modules = BTreeMap::new();
        collect(&source, &Vec::new(), &mut modules);
        found.extend(circles(&modules).into_iter().map(|at| format!("{}: {at}", source.display())));
    }
    assert!(
        found.is_empty(),
        "these modules need each other; move what both need into a third:\n{}",
        found.join("\n")
    );
}

#[test]
fn a_circle_is_found_and_a_root_with_its_children_is_none() {
    let modules = |files: &[(&str, &str)]| {
        let path =
            |name: &str| name.split("::").filter(|p| !p.is_empty()).map(str::to_owned).collect();
        files.iter().map(|(name, text)| (path(name), (*text).to_owned())).collect()
    };
    let good = modules(&[
        ("", "mod a;\npub use self::a::A;"),
        ("a", "mod b;\nmod c;\npub(crate) use self::b::B;"),
        ("a::b", "use super::c::{C, D as E};\n// use crate::a::nobody;"),
        ("a::c", "fn c() {}\n#[cfg(test)]\nmod tests {\n use super::super::b::B;\n}"),
    ]);
    assert_eq!(circles(&good), [""; 0]);
    let bad = modules(&[
        ("", "mod a;"),
        ("a", "mod b;\nmod c;\nmod d;"),
        ("a::b", "use std::fmt;\nuse super::{\n    c::C,\n};"),
        ("a::c", "fn c() { crate::a::d::d() }"),
        ("a::d", "use super::b::B;"),
    ]);
    assert_eq!(circles(&bad), ["a::b", "a::c", "a::d"]);
}
