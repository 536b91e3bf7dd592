//! The name and the port numbers under which a Service is exported, if they are not its own.
//!
//! One text has both, the same in the ConfigMap, in an annotation and on the command line.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use adit_core::name::{NameError, Namespace, PortName, ServiceName};

/// `NAMESPACE/NAME`, `NAMESPACE/NAME:PORT`, or `NAMESPACE/NAME:PORTNAME=PORT,…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportAlias {
    /// The Service's name for other clusters.
    pub service: ServiceName,
    /// Its port numbers for other clusters.
    pub ports: AliasPorts,
}

/// The port numbers of an alias.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AliasPorts {
    /// Those of the Service.
    #[default]
    Own,
    /// This number for the only TCP port.
    Only(u16),
    /// These numbers for ports of these names; other ports keep theirs.
    Named(BTreeMap<PortName, u16>),
}

impl ExportAlias {
    /// Parses an alias whose namespace may be left out: then it is `namespace`.
    ///
    /// # Errors
    /// If it has another form, a part is not a valid name, or a number is not a port's.
    pub fn parse_in(text: &str, namespace: &Namespace) -> Result<Self, NameError> {
        if text.contains('/') { text.parse() } else { format!("{namespace}/{text}").parse() }
    }
}

impl FromStr for ExportAlias {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some((service, ports)) = text.split_once(':') else {
            return Ok(Self { service: text.parse()?, ports: AliasPorts::Own });
        };
        let service = service.parse()?;
        if !ports.contains('=') {
            return Ok(Self { service, ports: AliasPorts::Only(port_number(ports)?) });
        }
        let mut named = BTreeMap::new();
        for port in ports.split(',') {
            let (name, number) = port.split_once('=').ok_or_else(|| error(port))?;
            let name: PortName = name.trim().parse()?;
            if named.insert(name, port_number(number)?).is_some() {
                return Err(error(port));
            }
        }
        Ok(Self { service, ports: AliasPorts::Named(named) })
    }
}

fn port_number(text: &str) -> Result<u16, NameError> {
    let is_plain = |c: char| c.is_ascii_digit();
    let text = text.trim();
    let number = text.parse().ok().filter(|n| *n > 0 && text.chars().all(is_plain));
    number.ok_or_else(|| error(text))
}

fn error(text: &str) -> NameError {
    NameError {
        kind: "alias",
        value: text.chars().take(300).collect(),
        rule: "NAMESPACE/NAME, and after a colon the number of its only port, or PORTNAME=NUMBER of several, \
               each once, joined by commas",
    }
}

impl fmt::Display for ExportAlias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        match &self.ports {
            AliasPorts::Own => Ok(()),
            AliasPorts::Only(number) => write!(f, ":{number}"),
            AliasPorts::Named(ports) => {
                let all: Vec<_> = ports.iter().map(|(name, n)| format!("{name}={n}")).collect();
                write!(f, ":{}", all.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_reads_back_as_it_is_written() {
        for text in ["a/b", "a/b:80", "a/b:grpc=81,http=80"] {
            let alias: ExportAlias = text.parse().unwrap();
            assert_eq!(alias.to_string(), text);
        }
        let here = "a".parse().unwrap();
        assert_eq!(ExportAlias::parse_in("b:80", &here).unwrap().to_string(), "a/b:80");
        assert_eq!(ExportAlias::parse_in("c/b", &here).unwrap().to_string(), "c/b");
    }

    #[test]
    fn what_is_no_alias_is_refused() {
        for bad in [
            "",
            "b",
            "a/",
            "a/b:",
            "a/b:0",
            "a/b:65536",
            "a/b:+80",
            "a/b:http",
            "a/b:http=",
            "a/b:=",
            "a/b:http=80,http=81",
            "a/b:http=80,",
            "a/b:80,81",
            "a/B",
            "a/b/c",
            "a/b:http=-1",
        ] {
            assert!(bad.parse::<ExportAlias>().is_err(), "{bad}");
        }
    }
}
