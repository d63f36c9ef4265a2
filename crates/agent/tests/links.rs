//! Connections of cards: permits, order, ends.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use simtide_agent::links::Links;
use simtide_device::{Event, LinkId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const LINK: LinkId = LinkId(7);

async fn opened(latency: Duration) -> (Links, UnboundedReceiver<Event>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (tell, mut told) = unbounded_channel();
    let mut links = Links::default();
    links.open(LINK, listener.local_addr().unwrap(), latency, move |event| {
        let _ = tell.send(event);
    });
    let (server, _) = listener.accept().await.unwrap();
    assert_eq!(told.recv().await, Some(Event::ChannelConnected(LINK)));
    (links, told, server)
}

#[tokio::test]
async fn nothing_is_read_without_permission() {
    let (links, mut told, mut server) = opened(Duration::ZERO).await;
    server.write_all(b"abcdef").await.unwrap();
    links.send(LINK, b"x".to_vec());
    // The first thing that is told is what has been sent, not what has come.
    assert_eq!(told.recv().await, Some(Event::ChannelSent(LINK, 1)));
    links.receive(LINK, 4);
    assert_eq!(told.recv().await, Some(Event::ChannelData(LINK, b"abcd".to_vec())));
    links.receive(LINK, 4);
    assert_eq!(told.recv().await, Some(Event::ChannelData(LINK, b"ef".to_vec())));
}

#[tokio::test]
async fn what_was_sent_leaves_before_the_close() {
    let (mut links, mut told, mut server) = opened(Duration::from_millis(1)).await;
    for piece in [&b"one "[..], b"two ", b"three"] {
        links.send(LINK, piece.to_vec());
    }
    links.close(LINK);
    let mut heard = String::new();
    server.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "one two three");
    let mut sent = 0;
    while let Some(event) = told.recv().await {
        match event {
            Event::ChannelSent(LINK, count) => sent += count,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sent, 13);
}

#[tokio::test]
async fn a_server_that_hangs_up_is_told_once() {
    let (links, mut told, mut server) = opened(Duration::ZERO).await;
    server.write_all(b"bye").await.unwrap();
    drop(server);
    links.receive(LINK, 100);
    assert_eq!(told.recv().await, Some(Event::ChannelData(LINK, b"bye".to_vec())));
    links.receive(LINK, 100);
    assert_eq!(told.recv().await, Some(Event::ChannelClosed(LINK)));
    links.receive(LINK, 100);
    links.send(LINK, vec![1]);
    assert_eq!(told.recv().await, None);
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (tell, mut told) = unbounded_channel();
    let mut links = Links::default();
    links.open(LINK, address, Duration::ZERO, move |event| {
        let _ = tell.send(event);
    });
    assert_eq!(told.recv().await, Some(Event::ChannelFailed(LINK)));
}
