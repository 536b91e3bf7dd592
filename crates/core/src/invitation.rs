//! Joining by invitation, as a command and the nodes that work for it say it to each other: one JSON document a line,
//! over the standard input and output of a process in a node's pod.
//!
//! The commands themselves are `adit invite` and `adit join`; what two clusters say to each other is
//! [`crate::wire::join`]. Nothing here is an argument of a process, where others could read it.

use serde::{Deserialize, Serialize};

/// Most time that an invitation may last, in seconds.
pub const MAX_LIFETIME_SECS: u64 = 24 * 60 * 60;
/// The longest line, in bytes: a document and what is around it, each byte escaped at worst.
pub const MAX_LINE_LEN: usize = 2 * crate::wire::join::MAX_DOCUMENT_LEN + 64 * 1024;

/// An invitation, as the nodes of the inviting side get it: nothing of it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InvitationTerms {
    /// The public key that whoever is invited proves to have, in hexadecimal.
    pub key: String,
    /// The end, in seconds since 1970.
    pub until: u64,
    /// The inviting cluster, as the other side has to know it.
    pub document: String,
}

/// A cluster that asks to be linked, as a node of the inviting side received it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinApplication {
    /// The number of it at this node, from 1.
    pub number: u64,
    /// The address from which it came.
    pub from: String,
    /// The cluster, as it describes itself; nothing of it has been checked.
    pub document: String,
}

/// A line to the process in a pod of the inviting side. The end of its input withdraws the invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum InviterCommand {
    /// First of all: the invitation.
    Offer(InvitationTerms),
    /// The answer to an application.
    Answer {
        /// Its number.
        number: u64,
        /// `None` if the cluster has been linked; else why not.
        refusal: Option<String>,
    },
    /// The invitation ends now.
    End {
        /// True if it was used.
        is_used: bool,
    },
}

/// A line from the process in a pod of the inviting side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum InviterEvent {
    /// The node takes whoever has the invitation.
    Offered,
    /// Somebody asks.
    Application(JoinApplication),
    /// Whoever asked has gone.
    Gone,
    /// The answer to the application of this number has been given to whoever asked, if `is_delivered`.
    Answered {
        /// Its number.
        number: u64,
        /// False if whoever asked was gone.
        is_delivered: bool,
    },
    /// The process goes no further, for this reason.
    Failed(String),
}

/// A line to the process in a pod of the joining side. The end of its input ends it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum JoinerCommand {
    /// First of all: whom to dial.
    Dial {
        /// The token, a secret.
        token: String,
    },
    /// The other side is the one that is wanted: ask it.
    Ask {
        /// The joining cluster, as the other side has to know it.
        document: String,
    },
}

impl std::fmt::Debug for JoinerCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Dial { .. } => "Dial",
            Self::Ask { .. } => "Ask",
        })
    }
}

/// A line from the process in a pod of the joining side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum JoinerEvent {
    /// A node of the cluster that made the token answers: it has proved it.
    Offer {
        /// Its address.
        address: String,
        /// The other cluster, as its node describes it.
        document: String,
    },
    /// The other side has linked its cluster with this one.
    Accepted,
    /// The other side refuses and has changed nothing, for this reason.
    Refused(String),
    /// The process goes no further, for this reason.
    Failed {
        /// The reason.
        sentence: String,
        /// True if the other side may have linked its cluster all the same.
        is_unknown: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let document = "links:\n  - cluster: \"edge\"\n".to_owned();
        let terms = InvitationTerms { key: "00ff".into(), until: 7, document: document.clone() };
        let commands = [
            InviterCommand::Offer(terms),
            InviterCommand::Answer { number: 1, refusal: None },
            InviterCommand::Answer { number: 2, refusal: Some("no".into()) },
            InviterCommand::End { is_used: true },
        ];
        for command in commands {
            let line = serde_json_line(&command);
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(serde_json::from_str::<InviterCommand>(&line).unwrap(), command);
        }
        let events = [
            JoinerEvent::Offer { address: "10.0.0.1:7843".into(), document },
            JoinerEvent::Accepted,
            JoinerEvent::Failed { sentence: "no answer".into(), is_unknown: true },
        ];
        for event in events {
            assert_eq!(
                serde_json::from_str::<JoinerEvent>(&serde_json_line(&event)).unwrap(),
                event
            );
        }
    }

    #[test]
    fn a_token_is_not_shown() {
        let dial = JoinerCommand::Dial { token: "adit1-secret".into() };
        assert_eq!(format!("{dial:?}"), "Dial");
    }

    fn serde_json_line(value: &impl Serialize) -> String {
        serde_json::to_string(value).unwrap()
    }
}
