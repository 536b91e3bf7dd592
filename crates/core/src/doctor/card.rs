//! The judgement of an agent's card: would it work for callers in another cluster?
//!
//! The doctor asks it of one import, `adit agents` of all agents. A card is a stranger's text, and is believed in nothing: what it
//! says of itself is compared with what is exported.

use serde::Serialize;

use super::facts::CardFacts;

/// The values of `appProtocol` for which a gateway takes a port for an agent's, and writes its own URL into the card.
const GATEWAY_MARKERS: [&str; 2] = ["kgateway.dev/a2a", "agentgateway.dev/a2a"];

/// The thing about a card that does not work from another cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CardFault {
    /// A URL that does not lead to the import.
    Url,
    /// Push notifications that nothing carries.
    Push,
    /// A signature that somebody on the way would break.
    Signature,
}

/// A warning about a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CardWarning {
    /// The fault.
    pub fault: CardFault,
    /// The facts, in a sentence.
    pub seen: String,
    /// A command, or a line and where it goes, that mends it.
    pub mend: Option<String>,
}

/// The place in which a card has to work: a caller's cluster.
#[derive(Debug, Clone, Copy)]
pub struct CardPlace<'a> {
    /// The namespace of the Service, which is the same in both clusters.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The caller's cluster, and the option that leads a command there.
    pub here: (&'a str, &'a str),
    /// The exporting cluster, and the option that leads a command there.
    pub there: (&'a str, &'a str),
    /// True if the exporting cluster imports something from the caller's.
    pub has_way_back: bool,
}

/// Judges a card that was fetched.
#[must_use]
pub fn card_warnings(card: &CardFacts, place: &CardPlace<'_>) -> Vec<CardWarning> {
    let CardPlace { namespace, name, here, there, .. } = *place;
    let url = url_fault(card, namespace, name);
    let is_misleading = url.is_some();
    let mut warnings: Vec<_> = url.into_iter().collect();
    if card.push_notifications && !place.has_way_back {
        let seen = format!(
            "the card promises push notifications, and {} imports nothing from {}: a webhook of the caller cannot be reached",
            there.0, here.0
        );
        let mend = format!(
            "adit export NAMESPACE/WEBHOOK --to {} --allow {namespace}/*{}, and adit import NAMESPACE/WEBHOOK --from {}{}",
            there.0, here.1, here.0, there.1
        );
        warnings.push(CardWarning { fault: CardFault::Push, seen, mend: Some(mend) });
    }
    warnings.extend(signature_fault(card, is_misleading));
    warnings
}

/// The first URL that leads elsewhere.
fn url_fault(card: &CardFacts, namespace: &str, name: &str) -> Option<CardWarning> {
    let mend = format!("set the URL in the agent's card to http://{name}.{namespace}:PORT");
    let warning =
        |seen: String| Some(CardWarning { fault: CardFault::Url, seen, mend: Some(mend.clone()) });
    if card.urls.is_empty() {
        return warning("the card names no URL: a caller cannot know where to send to".to_owned());
    }
    for url in &card.urls {
        let (host, port) = host_and_port(url);
        if !names_service(host, namespace, name) {
            return warning(format!(
                "the card says {url}, which is not {name}.{namespace} as here: whoever follows it goes elsewhere"
            ));
        }
        if !card.ports.is_empty() && port.is_some_and(|port| !card.ports.contains(&port)) {
            let ports: Vec<_> = card.ports.iter().map(ToString::to_string).collect();
            return warning(format!(
                "the card says {url}, and {name}.{namespace} is exported with port {}: whoever follows it finds nothing",
                ports.join(", ")
            ));
        }
    }
    None
}

/// Adit changes no byte of a card; others do.
fn signature_fault(card: &CardFacts, is_misleading: bool) -> Option<CardWarning> {
    if !card.is_signed {
        return None;
    }
    let marker = card.app_protocols.iter().find(|marker| GATEWAY_MARKERS.contains(&&***marker));
    let (seen, mend) = match (is_misleading, marker) {
        (true, _) => (
            "the card is signed: a gateway that put the right URL into it would break the signature".to_owned(),
            "set the URL where the card is made, and sign it there".to_owned(),
        ),
        (false, Some(marker)) => (
            format!("the card is signed, and its port says {marker}: an agentgateway on the way puts its own URL into the card, which breaks the signature"),
            "leave appProtocol off this Service where callers verify its card, or have them fetch it past the gateway".to_owned(),
        ),
        (false, None) => return None,
    };
    Some(CardWarning { fault: CardFault::Signature, seen, mend: Some(mend) })
}

/// The host of a URL, and its port if it names one or has a scheme that does.
fn host_and_port(url: &str) -> (&str, Option<u16>) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let default = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (authority, default),
    }
}

/// True if a host is the Service, in one of the forms that both clusters resolve.
fn names_service(host: &str, namespace: &str, name: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let qualified = format!("{name}.{namespace}");
    host == qualified
        || host == format!("{qualified}.svc")
        || host == format!("{qualified}.svc.cluster.local")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: CardPlace<'_> = CardPlace {
        namespace: "agents",
        name: "fraud-bot",
        here: ("edge", ""),
        there: ("bank", ""),
        has_way_back: false,
    };

    fn card(url: &str) -> CardFacts {
        CardFacts { urls: vec![url.to_owned()], ports: vec![8080], ..CardFacts::default() }
    }

    fn faults(card: &CardFacts) -> Vec<CardFault> {
        card_warnings(card, &PLACE).into_iter().map(|warning| warning.fault).collect()
    }

    #[test]
    fn a_url_leads_to_the_import_by_its_host_and_port() {
        for url in [
            "http://fraud-bot.agents:8080/",
            "http://Fraud-Bot.agents.svc:8080",
            "grpc://me@fraud-bot.agents.svc.cluster.local:8080/a2a?b#c",
            "fraud-bot.agents:8080",
            "grpc://fraud-bot.agents",
        ] {
            assert_eq!(faults(&card(url)), [], "{url}");
        }
        for url in [
            "http://localhost:8080/",
            "http://fraud-bot:8080/",
            "http://fraud-bot.agents/",
            "https://fraud-bot.agents/",
            "http://fraud-bot.agents:9999/",
            "http://fraud-bot.agents.evil.example:8080/",
            "http://fraud-bot.agents:8080@evil.example/",
            "http://[::1]:8080/",
            "",
        ] {
            assert_eq!(faults(&card(url)), [CardFault::Url], "{url}");
        }
        let any = CardFacts { ports: vec![], ..card("http://fraud-bot.agents:9/") };
        assert_eq!(faults(&any), [], "nothing is known of its ports");
        assert_eq!(faults(&CardFacts::default()), [CardFault::Url]);
    }

    #[test]
    fn a_promise_needs_a_way_back_and_a_signature_nobody_who_rewrites() {
        let fits = || card("http://fraud-bot.agents:8080/");
        let push = CardFacts { push_notifications: true, ..fits() };
        assert_eq!(faults(&push), [CardFault::Push]);
        let back = CardPlace { has_way_back: true, ..PLACE };
        assert_eq!(card_warnings(&push, &back), []);
        let signed = CardFacts { is_signed: true, ..fits() };
        assert_eq!(faults(&signed), []);
        let marked = CardFacts { app_protocols: vec!["kgateway.dev/a2a".to_owned()], ..fits() };
        assert_eq!(faults(&marked), []);
        assert_eq!(faults(&CardFacts { is_signed: true, ..marked }), [CardFault::Signature]);
        let elsewhere = CardFacts { is_signed: true, ..card("http://localhost/") };
        assert_eq!(faults(&elsewhere), [CardFault::Url, CardFault::Signature]);
    }
}
