//! The one question of `adit link`: which namespaces are open to the other cluster.

use std::io::{BufRead, IsTerminal, Write};

use adit_config::cluster::NamePattern;

/// The question. Both sides of a new link get the same answer.
const QUESTION: &str = "\
Which namespaces are open to the other cluster? In those, what it exports fills Services of the same name that cannot
have pods of their own: without a selector, or of a kagent Agent with replicas: 0. Any other Service it fills only if
`adit import` names it.
Names separated by commas, * for all, Enter for none: ";

/// Returns whether somebody can be asked: on a terminal, with standard output left to what is
/// printed.
pub(super) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks until there is a usable answer; the end of the input counts as none.
///
/// # Errors
/// If the terminal cannot be read or written.
pub(super) fn ask(
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> std::io::Result<Vec<NamePattern>> {
    loop {
        write!(output, "{QUESTION}")?;
        output.flush()?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            writeln!(output)?;
            return Ok(Vec::new());
        }
        let names = line.split(',').map(str::trim).filter(|name| !name.is_empty());
        match names.map(str::parse).collect() {
            Ok(namespaces) => return Ok(namespaces),
            Err(error) => {
                let error: adit_core::name::NameError = error;
                writeln!(output, "{error}")?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(input: &str) -> (Vec<String>, String) {
        let mut output = Vec::new();
        let namespaces = ask(&mut input.as_bytes(), &mut output).unwrap();
        let namespaces = namespaces.iter().map(ToString::to_string).collect();
        (namespaces, String::from_utf8(output).unwrap())
    }

    #[test]
    fn nothing_opens_nothing_and_a_mistake_is_asked_again() {
        assert_eq!(answered("\n").0, [""; 0]);
        assert_eq!(answered("").0, [""; 0], "the end of the input");
        assert_eq!(answered("*\n").0, ["*"]);
        assert_eq!(answered(" team-a, team-* ,\n").0, ["team-a", "team-*"]);
        let (namespaces, said) = answered("Team A\nteam-a\n");
        assert_eq!(namespaces, ["team-a"]);
        assert!(said.contains("Team A") && said.matches("Which namespaces").count() == 2, "{said}");
    }
}
