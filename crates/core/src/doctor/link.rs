//! The hops between the clusters: the other installation, and the link.

use super::facts::{ConditionFacts, ExportSide, NodeLink};
use super::here::{Trouble, link_command, trouble, unlinked};
use super::{DoctorHop, Walk};
use crate::code::Code;
use crate::text::{count_noun, human_seconds};

/// The mend of clocks that differ.
const SET_CLOCKS: &str = "set both clocks: chronyc makestep, or as your nodes keep time";
/// Clocks that are further apart make certificates end early or begin late, in seconds.
const MAX_CLOCK_SKEW: u64 = 60;
/// The least MTU of a path, in bytes of UDP payload, on which QUIC begins; what is found is raised at once where the
/// path carries more.
const LEAST_MTU: u16 = 1200;

pub(super) fn peer_installation(walk: &mut Walk<'_>) {
    let hop = DoctorHop::PeerInstallation;
    let Some(there) = &walk.facts.there else { return };
    let of = &there.installation;
    let works = walk.works();
    let name = of.cluster.as_deref().unwrap_or("(no name)");
    match trouble(of) {
        Some(Trouble { seen, mend, is_hard }) if is_hard || !works && !is_elsewhere(walk) => {
            walk.fail(hop, format!("{name}: {seen}"), mend);
        }
        Some(Trouble { seen, mend, .. }) => walk.note(hop, format!("{name}: {seen}"), Some(mend)),
        None => {
            let pods = of.node_pods.len();
            let nodes = count_noun(pods as u64, "node");
            walk.good(hop, format!("{name}: a controller is active, a daemon on {nodes}"));
        }
    }
    if of.cluster.is_some() && walk.facts.from.is_some() && of.cluster != walk.facts.from {
        let from = walk.from();
        let seen =
            format!("context {} is of cluster {name}, and the import is from {from}", of.context);
        walk.fail(hop, seen, format!("name the context of {from}: --context"));
    }
}

/// True if what fails is on this side, so that the other's troubles do not matter yet.
fn is_elsewhere(walk: &Walk<'_>) -> bool {
    walk.has_failed()
}

/// The reasons of both sides, as one code each: `up`, or why not.
struct BothSides {
    own_reason: String,
    peer_reason: Option<String>,
    sentence: String,
}

pub(super) fn link(walk: &mut Walk<'_>) {
    let hop = DoctorHop::Link;
    let (here, there, from) = (walk.facts.here.as_ref(), walk.facts.there.as_ref(), walk.from());
    let of_node = walk.node().and_then(|node| node.link.as_ref());
    if walk.node().is_some() && of_node.is_none() || here.is_some_and(|h| h.link.is_none()) {
        return unlinked(walk);
    }
    let lost =
        walk.probe().filter(|probe| Code::from_name(&probe.code).is_some_and(Code::is_of_link));
    let is_down = of_node.is_some_and(|link| !link.is_up) || lost.is_some();
    let is_down = is_down || of_node.is_none() && here.is_some_and(|h| is_false(h.link.as_ref()));
    if is_down && !walk.is_answered() {
        let both = both_sides(walk, of_node);
        let (seen, mend) = explain(walk, &both);
        return walk.fail(hop, seen, mend);
    }
    match of_node {
        Some(link) => {
            let nodes = count_noun(link.connected, "node");
            // Zero while a fresh connection still finds out.
            let packets = match link.mtu {
                0 => String::new(),
                mtu => format!(", packets of {mtu} bytes pass"),
            };
            walk.good(hop, format!("connected with {nodes} of {from}{packets}"));
            if (1..=LEAST_MTU).contains(&link.mtu) {
                let seen = format!(
                    "no packet of more than {} bytes passes between the nodes: the MTU of the path is small, or ICMP is lost",
                    link.mtu
                );
                walk.note(hop, seen, None);
            }
        }
        None if walk.works() => {
            let said = here.and_then(|here| here.link.as_ref());
            walk.good(hop, said.map_or_else(String::new, |link| link.message.clone()));
        }
        None => walk.unknown(hop, "no node was asked", None),
    }
    if let Some(there) = there {
        other_way(walk, there);
    }
    clocks(walk);
}

/// The other side's word about the link, where it works in our direction.
fn other_way(walk: &mut Walk<'_>, there: &ExportSide) {
    let hop = DoctorHop::Link;
    let own_version = walk.node().map(|node| node.version.clone());
    let peer_version = there.installation.version.clone();
    if let Some(condition) = there.link.as_ref().filter(|link| !link.is_true) {
        let seen =
            format!("{} says of it: {} ({})", walk.from(), condition.message, condition.reason);
        walk.note(hop, seen, None);
    }
    if let (Some(own_version), Some(peer_version)) = (own_version, peer_version)
        && !peer_version.is_empty()
        && own_version != peer_version
    {
        let seen =
            format!("versions differ: {own_version} here, {peer_version} in {}", walk.from());
        walk.note(hop, seen, None);
    }
}

/// By how much the clocks of the two nodes that were asked differ, in seconds, and if ours is ahead.
fn skew(walk: &Walk<'_>) -> Option<(u64, bool)> {
    let node = walk.node().filter(|node| node.clock > 0)?;
    let (clock, asker) = walk.facts.there.as_ref()?.clock?;
    let own_offset = i128::from(node.clock) - i128::from(node.asker_clock);
    let peer_offset = i128::from(clock) - i128::from(asker);
    let apart = own_offset - peer_offset;
    Some((u64::try_from(apart.unsigned_abs()).unwrap_or(u64::MAX), apart > 0))
}

fn skew_sentence(walk: &Walk<'_>) -> Option<String> {
    let (seconds, is_ahead) = skew(walk).filter(|(seconds, _)| *seconds > MAX_CLOCK_SKEW)?;
    let node = walk.node().map_or("", |node| &node.node);
    let way = if is_ahead { "ahead of" } else { "behind" };
    Some(format!(
        "the clock of node {node} is {} {way} that of {}'s",
        human_seconds(seconds),
        walk.from()
    ))
}

fn clocks(walk: &mut Walk<'_>) {
    if let Some(seen) = skew_sentence(walk) {
        walk.note(DoctorHop::Link, seen, Some(SET_CLOCKS.to_owned()));
    }
}

fn is_false(condition: Option<&ConditionFacts>) -> bool {
    condition.is_some_and(|condition| !condition.is_true)
}

/// A condition's reason as the code that it stands for, if it stands for one.
fn code_or_reason(reason: &str) -> String {
    Code::from_condition_reason(reason).map_or(reason, |code| code.name()).to_owned()
}

fn both_sides(walk: &Walk<'_>, of_node: Option<&NodeLink>) -> BothSides {
    let condition = walk.facts.here.as_ref().and_then(|here| here.link.as_ref());
    let of_node_reason = of_node.and_then(|link| link.reason.clone());
    let (own_reason, mut sentence) = match (of_node_reason, condition) {
        (Some(reason), _) => reason,
        (None, Some(up)) if !up.is_true => (code_or_reason(&up.reason), up.message.clone()),
        (None, _) => walk.probe().map(|p| (p.code.clone(), p.reason.clone())).unwrap_or_default(),
    };
    for more in
        of_node.into_iter().flat_map(|link| [&link.last_error, &link.failed_handshake]).flatten()
    {
        if !sentence.contains(&**more) {
            sentence += &format!("; {more}");
        }
    }
    let peer_reason = walk.facts.there.as_ref().map(|there| match &there.link {
        None => Code::Unlinked.name().to_owned(),
        Some(up) if up.is_true => "up".to_owned(),
        Some(up) => code_or_reason(&up.reason),
    });
    BothSides { own_reason, peer_reason, sentence }
}

/// Why the link is down, and the mend.
fn explain(walk: &Walk<'_>, both: &BothSides) -> (String, String) {
    let BothSides { own_reason, peer_reason, sentence } = both;
    let seen = |what: &str| format!("{what}: {sentence} ({own_reason})");
    let ended = Code::CertificateEnded.name();
    let is_time = ["expired", "not valid", "not-yet-valid"].iter().any(|w| sentence.contains(w))
        || own_reason == ended
        || peer_reason.as_deref() == Some(ended);
    let refused = [Code::CertificateRefused, Code::RefusedByPeer, Code::CertificateEnded];
    if is_time && refused.iter().any(|code| code.name() == own_reason) {
        let is_theirs = own_reason == Code::CertificateRefused.name();
        let whose = if is_theirs { walk.from() } else { walk.here() };
        let what = format!("a certificate of {whose} is out of its time");
        return explain_time(walk, whose, &seen(&what));
    }
    match explain_distrust(walk, both) {
        Some((what, mend)) => (seen(&what), mend),
        None => explain_silence(walk, both),
    }
}

/// Why one side does not want the other, and the mend.
fn explain_distrust(walk: &Walk<'_>, both: &BothSides) -> Option<(String, String)> {
    let (us, them) = (walk.here(), walk.from());
    let own_is = |code: Code| both.own_reason == code.name();
    let peer_is = |code: Code| both.peer_reason.as_deref() == Some(code.name());
    let is_in_sentence = |words: &str| both.sentence.contains(words);
    let old_bundle = |refuser: &str, of: &str| {
        format!(
            "{refuser} refuses the certificates of {of}: its bundle of {of} is not {of}'s present one"
        )
    };
    if peer_is(Code::Unlinked)
        || own_is(Code::Unlinked)
        || is_in_sentence("no trust bundle for")
        || is_in_sentence("not linked")
    {
        return Some((format!("{them} has no link to {us}"), link_command(walk)));
    }
    if own_is(Code::CertificateRefused) || peer_is(Code::RefusedByPeer) {
        return Some((old_bundle(us, them), link_command(walk)));
    }
    if own_is(Code::RefusedByPeer) || peer_is(Code::CertificateRefused) {
        return Some((old_bundle(them, us), link_command(walk)));
    }
    if own_is(Code::DeniedIdentity) || peer_is(Code::DeniedIdentity) {
        let mend = "take the entry out of `denied`, on the side that names it";
        return Some(("a deny list names the other side".to_owned(), mend.to_owned()));
    }
    if own_is(Code::VersionMismatch) || peer_is(Code::VersionMismatch) {
        let mend = "install the newer version on the side with the older one";
        return Some(("the versions are too far apart".to_owned(), mend.to_owned()));
    }
    let other = format!("whoever answers is another than {them}");
    own_is(Code::IdentityMismatch).then(|| (other, link_command(walk)))
}

/// A certificate that is not valid at present: clocks, or whoever should have renewed it.
fn explain_time(walk: &Walk<'_>, whose: &str, seen: &str) -> (String, String) {
    if let Some(skew) = skew_sentence(walk) {
        return (format!("{seen}; {skew}"), SET_CLOCKS.to_owned());
    }
    let option = if whose == walk.here() { walk.here_option() } else { walk.there_option() };
    let mend = format!(
        "kubectl{option} -n adit-system logs -l app.kubernetes.io/name=adit-controller --prefix    # why it signs none; then {}",
        link_command(walk)
    );
    (seen.to_owned(), mend)
}

/// Packets that are lost, and which way.
fn explain_silence(walk: &Walk<'_>, both: &BothSides) -> (String, String) {
    let (us, them) = (walk.here(), walk.from());
    let BothSides { own_reason, peer_reason, sentence } = both;
    let one_way = Code::OneWay.name();
    let (from, to) = if own_reason == one_way {
        (us, them)
    } else if peer_reason.as_deref() == Some(one_way) {
        (them, us)
    } else {
        let both_ways = match peer_reason.as_deref() {
            Some("up") => format!("{us} hears nothing of {them}, though {them} hears {us}"),
            Some(_) => format!("neither {us} nor {them} hears the other"),
            None => format!("{us} hears nothing of {them}"),
        };
        let mend = format!(
            "let UDP port 7843 (`network.port`) pass between the nodes of {us} and {them}, with packets of 1,228 bytes and more; \
             where addresses of nodes are new: {}",
            link_command(walk)
        );
        return (format!("{both_ways}: {sentence} ({own_reason})"), mend);
    };
    let seen = format!(
        "packets from {from} to {to} are lost, and those the other way arrive: {sentence} ({own_reason})"
    );
    let mend = format!(
        "let UDP port 7843 (`network.port`) pass from the nodes of {from} to those of {to}"
    );
    (seen, mend)
}
