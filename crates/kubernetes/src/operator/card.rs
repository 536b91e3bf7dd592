//! An agent's card, fetched through the API server of the agent's own cluster: at the moment it is asked for, and never stored.
//!
//! Whoever answers there is a stranger: no more than [`MAX_CARD_BYTES`] are read, for no longer than a person waits, and what is
//! kept of its texts is made safe to show and short.

use std::time::Duration;

use adit_core::doctor::facts::CardFacts;
use adit_core::name::ServiceName;
use adit_core::text::{escape, shorten};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use crate::operator::context::{BoundedAnswer, Context};

/// Where agents have their cards: the present place, and that of the older protocol.
const PATHS: [&str; 2] = [".well-known/agent-card.json", ".well-known/agent.json"];
/// The longest wait for a card.
pub(super) const CARD_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest card that is read, in bytes.
const MAX_CARD_BYTES: usize = 256 * 1024;
/// The most URLs, skills and versions of a card that are looked at.
const MAX_URLS: usize = 16;
const MAX_SKILLS: usize = 16;
const MAX_VERSIONS: usize = 8;
/// The most of a name or URL, and of a sentence, in bytes.
const MAX_NAME: usize = 120;
const MAX_URL: usize = 300;
const MAX_SENTENCE: usize = 240;

/// Fetches the card of the agent behind a Service, by one of its ports where that is named, within so long.
pub(super) async fn fetch(
    context: &Context,
    service: &ServiceName,
    port: Option<&str>,
    within: Duration,
) -> CardFacts {
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    let (namespace, name) = (&service.namespace, service.name());
    let base = format!("/api/v1/namespaces/{namespace}/services/{name}{port}/proxy");
    let began = Instant::now();
    let mut missing = CardFacts::default();
    for path in PATHS {
        let left = within.saturating_sub(began.elapsed());
        // The API server may not reach pods, and says nothing then for as long as somebody waits.
        let answer = timeout(left, context.get_bounded(&base, path, MAX_CARD_BYTES)).await;
        let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        match answer {
            Ok(Ok(answer)) if answer.is_success => {
                let card = if answer.is_too_long { too_long() } else { read(&answer.text) };
                return CardFacts { is_answered: true, milliseconds, ..card };
            }
            Ok(Ok(answer)) => {
                missing.is_answered = !is_of_api_server(&answer);
                missing.milliseconds = milliseconds;
                missing.error = Some(refusal(&answer, missing.is_answered));
            }
            Ok(Err(error)) => missing.error = Some(error.to_string()),
            Err(_) => {
                let seconds = within.as_secs();
                let error =
                    format!("the API server has got none from the agent within {seconds} s");
                missing.error = Some(error);
                break;
            }
        }
    }
    missing
}

/// True if the API server speaks of itself: it has not reached the agent.
fn is_of_api_server(answer: &BoundedAnswer) -> bool {
    let status = serde_json::from_str::<Value>(&answer.text);
    status.is_ok_and(|status| status["kind"] == "Status" && status["apiVersion"] == "v1")
}

/// Why there is no card.
fn refusal(answer: &BoundedAnswer, is_answered: bool) -> String {
    let status = answer.status;
    if is_answered {
        return format!("what answers has no card (HTTP status {status})");
    }
    let said = serde_json::from_str::<Value>(&answer.text).unwrap_or_default();
    let said = shown(said["message"].as_str().unwrap_or_default(), MAX_SENTENCE);
    format!("the API server does not reach the agent: {said} (HTTP status {status})")
}

/// A stranger's text, safe to show and short.
fn shown(text: &str, max: usize) -> String {
    shorten(&escape(shorten(text, max * 2).trim()), max).into_owned()
}

fn read(text: &str) -> CardFacts {
    let card: Value = match serde_json::from_str(text) {
        Ok(Value::Object(card)) => Value::Object(card),
        Ok(_) => return no_card("it is no JSON object"),
        Err(error) => return no_card(&error.to_string()),
    };
    let text = |key: &str, max| shown(card[key].as_str().unwrap_or_default(), max);
    let more = ["/additionalInterfaces", "/supportedInterfaces"].into_iter();
    let more: Vec<_> = more.filter_map(|list| card.pointer(list)?.as_array()).flatten().collect();
    let urls = more.iter().copied().chain([&card]).filter_map(|one| one["url"].as_str());
    let urls = sorted(urls.map(|url| shown(url, MAX_URL)), MAX_URLS);
    let one = more.iter().copied().chain([&card]).filter_map(|one| one["protocolVersion"].as_str());
    let all = card["protocolVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let versions = sorted(one.chain(all).map(|version| shown(version, MAX_NAME)), MAX_VERSIONS);
    let skills: Vec<_> = card["skills"].as_array().into_iter().flatten().collect();
    let skill = |skill: &&Value| {
        let name = skill["name"].as_str().or_else(|| skill["id"].as_str());
        shown(name.unwrap_or("(without a name)"), MAX_NAME)
    };
    let push = card.pointer("/capabilities/pushNotifications").and_then(Value::as_bool);
    CardFacts {
        name: text("name", MAX_NAME),
        description: text("description", MAX_SENTENCE),
        version: text("version", MAX_NAME),
        skills: skills.iter().take(MAX_SKILLS).map(skill).collect(),
        more_skills: skills.len().saturating_sub(MAX_SKILLS) as u64,
        protocol_versions: versions,
        is_signed: card["signatures"].as_array().is_some_and(|all| !all.is_empty()),
        urls,
        push_notifications: push == Some(true),
        ..CardFacts::default()
    }
}

fn too_long() -> CardFacts {
    no_card(&format!("it has more than {} KiB", MAX_CARD_BYTES / 1024))
}

fn no_card(why: &str) -> CardFacts {
    let error = format!("what answers sends no card: {}", shown(why, MAX_SENTENCE));
    CardFacts { error: Some(error), ..CardFacts::default() }
}

/// The first few, each once, in order.
fn sorted(all: impl Iterator<Item = String>, max: usize) -> Vec<String> {
    let mut some: Vec<_> = all.take(max).collect();
    some.sort_unstable();
    some.dedup();
    some
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_of_each_protocol_version_says_its_urls_and_what_it_promises() {
        let old = r#"{"url": "http://a.b:8080/", "protocolVersion": "0.3.0", "capabilities": {"pushNotifications": true},
            "signatures": [{"protected": "e30", "signature": "x"}]}"#;
        let read_old = read(old);
        assert_eq!(
            (&read_old.urls[..], read_old.push_notifications, read_old.is_signed),
            (&["http://a.b:8080/".to_owned()][..], true, true)
        );
        assert_eq!(read_old.protocol_versions, ["0.3.0"]);
        let new = r#"{"supportedInterfaces": [{"url": "http://a.b:8080/", "protocolVersion": "1.0"},
            {"url": "http://c:1/", "protocolVersion": "0.3"}], "capabilities": {}, "signatures": []}"#;
        let read_new = read(new);
        assert_eq!((read_new.urls.len(), read_new.push_notifications), (2, false));
        assert_eq!(
            (read_new.protocol_versions, read_new.is_signed),
            (vec!["0.3".to_owned(), "1.0".to_owned()], false)
        );
        for none in ["<html>", "[]", "7", ""] {
            assert!(read(none).error.is_some(), "{none}");
        }
    }

    #[test]
    fn whatever_a_card_says_is_short_and_safe_to_show() {
        let long = "\u{1b}[2J\u{202e}".repeat(50_000);
        let skills: Vec<_> =
            (0..1000).map(|n| serde_json::json!({"name": format!("{n}{long:.9000}")})).collect();
        let card = serde_json::json!({
            "name": long, "description": long, "version": long, "protocolVersion": long, "url": long,
            "protocolVersions": vec![long.clone(); 2], "skills": skills,
        });
        let read = read(&card.to_string());
        assert_eq!((read.skills.len(), read.more_skills), (MAX_SKILLS, 1000 - MAX_SKILLS as u64));
        let texts = [read.name, read.description, read.version].into_iter();
        for text in texts.chain(read.skills).chain(read.protocol_versions).chain(read.urls) {
            assert!(text.len() <= MAX_URL && !text.contains(adit_core::text::is_hostile), "{text}");
        }
        let wrong = r#"{"name": 7, "skills": {"a": 1}, "url": ["x"], "signatures": "yes", "capabilities": []}"#;
        let read = super::read(wrong);
        assert_eq!(read, CardFacts::default(), "what has another type is not there");
    }
}
