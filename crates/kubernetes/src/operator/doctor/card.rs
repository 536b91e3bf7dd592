//! An agent's card, fetched through the API server of the agent's own cluster.

use std::time::Duration;

use adit_core::doctor::facts::CardFacts;
use adit_core::name::ServiceName;
use serde_json::Value;
use tokio::time::timeout;

use crate::operator::context::Context;

/// Where agents have their cards: the present place, and that of the older protocol.
const PATHS: [&str; 2] = [".well-known/agent-card.json", ".well-known/agent.json"];
/// The longest wait for a card.
const CARD_TIMEOUT: Duration = Duration::from_secs(10);
/// The most URLs of a card that are looked at.
const MAX_URLS: usize = 16;

pub(super) async fn fetch(
    context: &Context,
    service: &ServiceName,
    port: Option<&str>,
) -> CardFacts {
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    let mut last = String::new();
    for path in PATHS {
        let target = format!(
            "/api/v1/namespaces/{}/services/{}{port}/proxy",
            service.namespace,
            service.name()
        );
        // The API server may not reach pods, and says nothing then for as long as somebody waits.
        match timeout(CARD_TIMEOUT, context.get_text(&target, path)).await {
            Ok(Ok(text)) => return read(&text),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => {
                let seconds = CARD_TIMEOUT.as_secs();
                last = format!("the API server has got none from the agent within {seconds} s");
                break;
            }
        }
    }
    CardFacts { error: Some(last), ..CardFacts::default() }
}

fn read(text: &str) -> CardFacts {
    let card: Value = match serde_json::from_str(text) {
        Ok(card) => card,
        Err(error) => return CardFacts { error: Some(error.to_string()), ..CardFacts::default() },
    };
    let more = ["/additionalInterfaces", "/supportedInterfaces"].into_iter();
    let more = more.filter_map(|list| card.pointer(list)?.as_array()).flatten();
    let urls = more.chain([&card]).filter_map(|one| one.get("url")?.as_str());
    let mut urls: Vec<_> = urls.take(MAX_URLS).map(str::to_owned).collect();
    urls.sort_unstable();
    urls.dedup();
    let push = card.pointer("/capabilities/pushNotifications").and_then(Value::as_bool);
    CardFacts { error: None, urls, push_notifications: push == Some(true) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_of_each_protocol_version_says_its_urls_and_what_it_promises() {
        let old = r#"{"url": "http://a.b:8080/", "capabilities": {"pushNotifications": true}}"#;
        let read_old = read(old);
        assert_eq!(
            (&read_old.urls[..], read_old.push_notifications),
            (&["http://a.b:8080/".to_owned()][..], true)
        );
        let new = r#"{"supportedInterfaces": [{"url": "http://a.b:8080/"}, {"url": "http://c:1/"}], "capabilities": {}}"#;
        assert_eq!((read(new).urls.len(), read(new).push_notifications), (2, false));
        assert!(read("<html>").error.is_some());
    }
}
