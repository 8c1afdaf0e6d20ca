//! Statuses, written where they are not yet what they should be.

use std::{collections::BTreeMap, time::Duration};

use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{sync::mpsc::Sender, sync::watch, time::sleep};

use super::objects::{Kind, News};
use crate::discovery::backoff::{Backoff, chance};

/// Every node would write the same: each waits a little, by chance, and sees whether it still has to.
const SPREAD_MS: u64 = 100;

/// What one object's status should say.
#[derive(Clone, PartialEq, Debug)]
pub struct Wish {
    pub kind: Kind,
    /// Empty for objects of the cluster as a whole.
    pub namespace: String,
    pub name: String,
    /// What was read; a newer one is first read again.
    pub version: String,
    pub status: Value,
}

/// Fulfils wishes, until nobody has any more.
pub async fn write(client: Client, mut wished: watch::Receiver<Vec<Wish>>, news: Sender<News>) {
    // What was written of which version, so that it is not written again before it is seen.
    let mut written: BTreeMap<(Kind, String, String), String> = BTreeMap::new();
    let mut backoff = Backoff::default();
    while wished.changed().await.is_ok() {
        loop {
            if !wished.borrow_and_update().is_empty() {
                sleep(Duration::from_millis(chance() % SPREAD_MS)).await;
            }
            let wishes = wished.borrow_and_update().clone();
            let mut failed = None;
            for wish in wishes {
                let key = (wish.kind, wish.namespace.clone(), wish.name.clone());
                if written.get(&key) == Some(&wish.version) {
                    continue;
                }
                match patch(&client, &wish).await {
                    Ok(()) => drop(written.insert(key, wish.version)),
                    Err(error) => failed = Some(format!("the status of {} can't be written: {error}", shown(&wish))),
                }
            }
            let again = failed.is_some();
            if news.send(News::Written(failed.map_or(Ok(()), Err))).await.is_err() {
                return;
            }
            if !again {
                backoff.reset();
                break;
            }
            sleep(backoff.next(chance())).await;
        }
    }
}

async fn patch(client: &Client, wish: &Wish) -> Result<(), kube::Error> {
    let resource = wish.kind.resource();
    let api: Api<DynamicObject> = match wish.namespace.as_str() {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    let body = json!({"metadata": {"resourceVersion": wish.version}, "status": wish.status});
    match api.patch_status(&wish.name, &PatchParams::default(), &Patch::Merge(body)).await {
        // Somebody was faster, or it is gone: what is so will be seen.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other.map(drop),
    }
}

fn shown(wish: &Wish) -> String {
    format!("{} {}/{}", wish.kind.resource().kind, wish.namespace, wish.name)
}
