//! The server behind every subject: one process on one core, started as a hidden subcommand.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::traffic::{CHUNK, HEAD, Request, pattern};

/// Serves until it is killed.
pub(crate) async fn serve(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                connections.spawn(connection(stream));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// Answers the requests of one connection until its client finishes. Where a request is not as it must
/// be, the connection is dropped, which its client reports.
async fn connection(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::with_capacity(4096, reader);
    let (mut head, mut body) = ([0; HEAD], Vec::new());
    loop {
        reader.read_exact(&mut head).await?;
        let request = Request::decode(head)?;
        body.resize(request.body(), 0);
        reader.read_exact(&mut body).await?;
        ensure!(
            body == pattern(request.seed.into(), body.len()),
            "a request arrived with wrong bytes"
        );
        let (mut at, seed) = (0, u64::from(request.seed));
        while at < request.answer {
            let left = request.answer - at;
            let len = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            writer.write_all(pattern(seed + at, len)).await?;
            at += len as u64;
        }
    }
}
