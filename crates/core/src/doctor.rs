//! From what was seen of an import to the first thing that is in the way of a request.
//!
//! [`diagnose`] walks the way of a connection, [`DoctorHop`] by hop, from the caller's pod to the backend in the other
//! cluster, and says of each what was seen. The first hop that fails is what has to be mended first: what comes behind
//! it may fail only for that reason. A request is taken to be answered if a probe was, which went through the
//! data path of the caller's node as the caller, and nothing before that node is in its way.
//! [`diagnose_export`] and [`diagnose_link`] look at one side of it alone.
//!
//! * [`facts`]: what is decided from. * `here`: from the installation to the caller's node. * `link`: between the clusters.
//! * `there`: from the export to the answer. * [`card`]: an agent's card. * `alone`: an export or a link by itself.

mod alone;
pub mod card;
pub mod facts;
mod here;
mod link;
mod there;

use serde::Serialize;

pub use self::alone::{diagnose_export, diagnose_link};
use self::facts::{CallerNode, DaemonFacts, DoctorFacts, PortFacts, ProbeFacts, ProbeStage};
use crate::code::Code;

/// A hop of the way of a connection, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DoctorHop {
    /// Adit in the caller's cluster.
    Installation,
    /// The caller's pod, and who it is.
    Caller,
    /// The Service that the caller names.
    Service,
    /// The Service's endpoints: the import's, and nobody else's.
    Endpoints,
    /// The daemon on the caller's node: it runs, knows the import and listens.
    Node,
    /// The import lets the caller use it.
    ImportGrant,
    /// Adit in the exporting cluster.
    PeerInstallation,
    /// The link between the clusters.
    Link,
    /// The exporting cluster exports the Service.
    Export,
    /// The export lets the caller use it.
    ExportGrant,
    /// A backend answers.
    Backend,
    /// A probe as the caller, from the caller's node, through all of it.
    Answer,
    /// The card of an A2A agent fits.
    Card,
}

/// The outcome of a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HopOutcome {
    /// Nothing is in the way.
    Good,
    /// Nothing is in the way of this request, and something should be looked at.
    Note,
    /// A request does not get past it.
    Failed,
    /// The hop could not be looked at.
    Unknown,
}

/// A hop, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HopFinding {
    /// The hop.
    pub hop: DoctorHop,
    /// Its outcome.
    pub outcome: HopOutcome,
    /// The facts, in a sentence.
    pub seen: String,
    /// A command, or a line and where it goes, that mends it.
    pub mend: Option<String>,
}

/// The thing that is diagnosed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DoctorSubject {
    /// An import, from the caller to the backend.
    Import,
    /// An export, from the exporting cluster's installation to the backend.
    Export,
    /// A link, as one of its clusters has it.
    Link,
}

/// The diagnosis of one import for one caller, or of one export or link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// The thing that is diagnosed.
    pub subject: DoctorSubject,
    /// The Service, `NAMESPACE/NAME`; empty of a link.
    pub service: String,
    /// The exporting cluster, if anything says which; of a link the other cluster.
    pub from: Option<String>,
    /// The caller, in words; of a link the cluster that was asked, and of an export nobody.
    pub caller: String,
    /// True if a request would be answered, as far as the subject goes, false if not; absent if that cannot be said.
    pub is_answered: Option<bool>,
    /// The first hop that fails.
    pub first_failed: Option<DoctorHop>,
    /// All that was found, hop by hop; a hop may have a finding and notes.
    pub findings: Vec<HopFinding>,
}

impl DoctorHop {
    /// The name as people read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Installation => "installation",
            Self::Caller => "caller",
            Self::Service => "service",
            Self::Endpoints => "endpoints",
            Self::Node => "node",
            Self::ImportGrant => "import grant",
            Self::PeerInstallation => "other installation",
            Self::Link => "link",
            Self::Export => "export",
            Self::ExportGrant => "export grant",
            Self::Backend => "backend",
            Self::Answer => "answer",
            Self::Card => "card",
        }
    }
}

impl Diagnosis {
    /// The finding that says what is to be mended first.
    #[must_use]
    pub fn first(&self) -> Option<&HopFinding> {
        first_failed(&self.findings)
    }

    /// The exit status: 0 if a request would be answered, 1 if not, 2 if that cannot be said.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self.is_answered {
            Some(true) => 0,
            Some(false) => 1,
            None => 2,
        }
    }
}

/// The findings of one walk, as they are made.
struct Walk<'a> {
    subject: DoctorSubject,
    facts: &'a DoctorFacts,
    findings: Vec<HopFinding>,
}

/// Finds what is in the way of a request.
#[must_use]
pub fn diagnose(facts: &DoctorFacts) -> Diagnosis {
    let mut walk = Walk::new(DoctorSubject::Import, facts);
    here::installation(&mut walk);
    here::caller(&mut walk);
    here::service(&mut walk);
    here::endpoints(&mut walk);
    here::node(&mut walk);
    here::grant(&mut walk);
    link::peer_installation(&mut walk);
    link::link(&mut walk);
    there::export(&mut walk);
    there::grant(&mut walk);
    there::backend(&mut walk);
    there::answer(&mut walk);
    there::card(&mut walk);
    let is_answered = walk.is_answered();
    let caller = walk.caller_words();
    walk.end(is_answered, caller)
}

impl<'a> Walk<'a> {
    fn new(subject: DoctorSubject, facts: &'a DoctorFacts) -> Self {
        Self { subject, facts, findings: Vec::new() }
    }

    /// True if the subject does its work, whatever else is found.
    fn works(&self) -> bool {
        match self.subject {
            DoctorSubject::Import => self.is_answered(),
            DoctorSubject::Export => alone::is_served(self.facts),
            DoctorSubject::Link => alone::is_up(self.facts),
        }
    }

    fn add(&mut self, hop: DoctorHop, outcome: HopOutcome, seen: String, mend: Option<String>) {
        self.findings.push(HopFinding { hop, outcome, seen, mend });
    }

    fn good(&mut self, hop: DoctorHop, seen: impl Into<String>) {
        self.add(hop, HopOutcome::Good, seen.into(), None);
    }

    fn note(&mut self, hop: DoctorHop, seen: impl Into<String>, mend: Option<String>) {
        self.add(hop, HopOutcome::Note, seen.into(), mend);
    }

    fn unknown(&mut self, hop: DoctorHop, seen: impl Into<String>, mend: Option<String>) {
        self.add(hop, HopOutcome::Unknown, seen.into(), mend);
    }

    fn fail(&mut self, hop: DoctorHop, seen: impl Into<String>, mend: impl Into<String>) {
        self.add(hop, HopOutcome::Failed, seen.into(), Some(mend.into()));
    }

    /// True if this hop has failed, or one of those before it.
    fn has_failed(&self) -> bool {
        first_failed(&self.findings).is_some()
    }

    fn node(&self) -> Option<&'a DaemonFacts> {
        match &self.facts.node {
            CallerNode::Answered(node) => Some(node),
            CallerNode::NotAsked | CallerNode::NoDaemon { .. } | CallerNode::Unreachable { .. } => {
                None
            }
        }
    }

    fn probe(&self) -> Option<&'a ProbeFacts> {
        self.node()?.probe.as_ref()
    }

    /// True if the probe got through.
    fn is_answered(&self) -> bool {
        self.probe().is_some_and(|probe| probe.stage == ProbeStage::Answered)
    }

    /// The probe, if it ended with this code.
    fn probe_ended(&self, code: Code) -> Option<&'a ProbeFacts> {
        self.probe().filter(|probe| probe.code == code.name())
    }

    fn namespace(&self) -> &'a str {
        self.facts.service.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    fn name(&self) -> &'a str {
        short_name(&self.facts.service)
    }

    /// The Service of the exporting cluster: the one of the same name, unless it is exported under that name.
    fn behind(&self) -> &'a str {
        let backend = self.facts.there.as_ref().and_then(|there| there.backend.as_deref());
        backend.unwrap_or(&self.facts.service)
    }

    /// The name of that Service alone.
    fn behind_name(&self) -> &'a str {
        short_name(self.behind())
    }

    /// The exporting cluster, or a word to be replaced.
    fn from(&self) -> &'a str {
        self.facts.from.as_deref().unwrap_or("CLUSTER")
    }

    /// The importing cluster, or a word to be replaced.
    fn here(&self) -> &'a str {
        let of_api = self.facts.here.as_ref().and_then(|here| here.installation.cluster.as_deref());
        of_api.or_else(|| self.node().map(|node| &*node.cluster)).unwrap_or("THIS-CLUSTER")
    }

    /// The caller's account, as the node knows it or else as it was found.
    fn account(&self) -> Option<&'a str> {
        let probe = self.probe().and_then(|probe| probe.source.as_deref());
        probe.or(self.facts.caller.account.as_deref())
    }

    /// The option that leads a command to the importing cluster.
    fn here_option(&self) -> String {
        let here = self.facts.here.as_ref();
        here.map_or_else(String::new, |here| format!(" --context {}", here.installation.context))
    }

    /// The option that leads a command to the exporting cluster.
    fn there_option(&self) -> String {
        match &self.facts.there {
            Some(there) => format!(" --context {}", there.installation.context),
            None => format!(" --context {}'S-CONTEXT", self.from().to_uppercase()),
        }
    }

    /// `kubectl` for this side, and for the Service's namespace.
    fn kubectl_here(&self) -> String {
        format!("kubectl{} -n {}", self.here_option(), self.namespace())
    }

    /// The same for the other side.
    fn kubectl_there(&self) -> String {
        let namespace = self.behind().split_once('/').map_or("", |(namespace, _)| namespace);
        format!("kubectl{} -n {namespace}", self.there_option())
    }

    /// The diagnosis; `works` is the answer if nothing has failed.
    fn end(self, works: bool, caller: String) -> Diagnosis {
        let first_failed = first_failed(&self.findings).map(|finding| finding.hop);
        let is_answered = match first_failed {
            Some(_) => Some(false),
            // What was not looked at before the caller's node may be in the way.
            None if works => Some(true),
            None => None,
        };
        Diagnosis {
            subject: self.subject,
            service: self.facts.service.clone(),
            from: self.facts.from.clone(),
            caller,
            is_answered,
            first_failed,
            findings: self.findings,
        }
    }

    fn caller_words(&self) -> String {
        let account = self.account().unwrap_or("nobody that is known");
        match &self.facts.caller.pod {
            Some(pod) => format!("pod {} ({account}) on {}", pod.name, or_nowhere(&pod.node)),
            None if self.facts.caller.asked.is_empty() => account.to_owned(),
            None => self.account().unwrap_or(&self.facts.caller.asked).to_owned(),
        }
    }
}

/// True if one of the patterns, `NAMESPACE/ACCOUNT` with `*` for any, is for this account.
#[must_use]
pub fn may_use(patterns: &[String], account: &str) -> bool {
    here::allows(patterns.iter().map(|pattern| &**pattern), Some(account)) == Some(true)
}

fn first_failed(findings: &[HopFinding]) -> Option<&HopFinding> {
    findings.iter().find(|finding| finding.outcome == HopOutcome::Failed)
}

/// The name alone of `NAMESPACE/NAME`.
fn short_name(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(_, name)| name)
}

/// The ports by name and number.
fn port_names(ports: &[PortFacts]) -> String {
    let all: Vec<_> = ports.iter().map(|port| format!("{} {}", port.name, port.number)).collect();
    list(all.iter().map(|port| port.trim()))
}

fn or_nowhere(node: &str) -> &str {
    if node.is_empty() { "no node" } else { node }
}

/// The names, separated by commas; `none` if there are none.
fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests;
