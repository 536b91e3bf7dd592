//! Dials the cluster that made a token, makes sure that it is that one, and asks it to be linked.
//!
//! Runs in the pod of a node for that node's network alone: the node's own process has no part in it.

use std::net::SocketAddr;
use std::sync::Arc;

use adit_config::cluster::parse_fragment;
use adit_core::invitation::{JoinerCommand, JoinerEvent};
use adit_pki::{InvitationToken, TrustBundle, UnixTime};
use adit_transport::join::{InviterConnection, JoinError, join};
use adit_transport::{OsUdpNetwork, UdpNetwork};
use tokio::io::{AsyncBufRead, AsyncWrite};

use super::lines::{LineError, read_line, write_line};

/// Dials as the token says that `input` begins with, tells `output` what answers, and asks it when the command says so.
///
/// # Errors
/// If the command cannot be understood or heard. What goes wrong on the way is said to the command.
pub async fn run(
    mut input: impl AsyncBufRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> Result<(), LineError> {
    let Some(JoinerCommand::Dial { token }) = read_line(&mut input).await? else {
        return Err(LineError::NotUnderstood);
    };
    let fail = |sentence: String| JoinerEvent::Failed { sentence, is_unknown: false };
    let dialled = match InvitationToken::parse(&token) {
        Ok(token) => dial(&token).await,
        Err(error) => Err(error.to_string()),
    };
    let (address, connection) = match dialled {
        Ok(dialled) => dialled,
        Err(sentence) => return write_line(&mut output, &fail(sentence)).await,
    };
    let (address, document) = (address.to_string(), connection.document().to_owned());
    write_line(&mut output, &JoinerEvent::Offer { address, document }).await?;
    let document = match read_line(&mut input).await? {
        Some(JoinerCommand::Ask { document }) => document,
        Some(JoinerCommand::Dial { .. }) => return Err(LineError::NotUnderstood),
        None => return Ok(()),
    };
    let asked = tokio::select! {
        asked = connection.ask(&document) => asked,
        // The command has gone: nobody would act on the answer.
        _ = read_line::<JoinerCommand>(&mut input) => return Ok(()),
    };
    let event = match asked {
        Ok(()) => JoinerEvent::Accepted,
        Err(JoinError::Refused(sentence)) => JoinerEvent::Refused(sentence),
        Err(error) => {
            let is_unknown = matches!(error, JoinError::Unknown(_));
            JoinerEvent::Failed { sentence: error.to_string(), is_unknown }
        }
    };
    write_line(&mut output, &event).await
}

/// Dials one address after the other until a node of the cluster that made the token has proved to be one.
async fn dial(token: &InvitationToken) -> Result<(SocketAddr, InviterConnection), String> {
    let net: Arc<dyn UdpNetwork> = Arc::new(OsUdpNetwork);
    let mut tried = Vec::new();
    for address in &token.addresses {
        let connected = match join(&net, *address, &token.secret).await {
            Ok(connection) => check(&connection, token).map(|()| connection),
            Err(error) => Err(error),
        };
        match connected {
            Ok(connection) => return Ok((*address, connection)),
            Err(error) => {
                let is_next = error.is_worth_another_address();
                if matches!(error, JoinError::Refused(_)) {
                    return Err(error.to_string());
                }
                tried.push(format!("{address}: {error}"));
                if !is_next {
                    break;
                }
            }
        }
    }
    Err(tried.join("; "))
}

/// Decides whether what answers is a node of the cluster that made the token: by the bundle that it hands over, which must
/// be the token's.
fn check(connection: &InviterConnection, token: &InvitationToken) -> Result<(), JoinError> {
    let broken =
        |what: String| JoinError::BrokenOff(format!("what it hands over is no bundle: {what}"));
    let fragment = parse_fragment("bundle.yaml", connection.document());
    let fragment = fragment.map_err(|report| broken(report.to_string()))?;
    let link = fragment.links.first().ok_or_else(|| broken("it has no link".to_owned()))?;
    let bundle = TrustBundle::parse(token.trust_domain.clone(), link.trust_bundle.as_bytes());
    let bundle = bundle.map_err(|error| broken(error.to_string()))?;
    connection.check(&bundle, token.fingerprint, UnixTime::now())
}
