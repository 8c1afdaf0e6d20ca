use std::time::Duration;

use super::seam::{KEPT, Seam, event};
use crate::events::Event;

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn kept_events_after_a_number() {
    let seam = Seam::start().await;
    let client = seam.client();
    assert_eq!(client.events(0).await.unwrap(), [event(1), event(2), event(3)]);
    assert_eq!(client.events(2).await.unwrap(), [event(3)]);
    assert_eq!(client.events(KEPT).await.unwrap(), []);
}

#[tokio::test]
async fn a_follower_gets_every_event_once_and_ends_with_the_server() {
    let mut seam = Seam::start().await;
    let client = seam.client();
    let mut stream = client.follow(1).await.unwrap();
    assert_eq!(stream.next().await.unwrap(), Some(event(2)));
    // Number 3 is kept and comes live as well.
    for seq in [3, 4, 5] {
        seam.happen(seq);
    }
    let mut told: Vec<Event> = Vec::new();
    while told.len() < 3 {
        told.push(tokio::time::timeout(PATIENCE, stream.next()).await.expect("no event").unwrap().unwrap());
    }
    assert_eq!(told, [event(3), event(4), event(5)]);

    // It stops at once: a follower is not waited for.
    tokio::time::timeout(PATIENCE, seam.stop()).await.expect("the server does not stop");
    assert_eq!(tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap(), None);
    assert!(!seam.socket().exists());
    assert!(client.status().await.is_err());
}
