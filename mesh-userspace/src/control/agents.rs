//! Asks the agents of backends what share of their weight they can take, each on its own time.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{io::AsyncReadExt, net::TcpStream, task::AbortHandle, time};

use crate::{
    health::TargetKey,
    weights::{AgentError, AgentReport, parse_agent},
};

/// Where an agent is, and from one question to the next.
pub type Question = (SocketAddr, Duration);

/// All agents that are asked.
#[derive(Debug, Default)]
pub struct Agents {
    asked: BTreeMap<TargetKey, (Question, AbortHandle)>,
    said: Said,
}

type Said = Arc<Mutex<BTreeMap<TargetKey, Word>>>;

/// What an agent said last; words hold until others are said, and an agent that is silent changes nothing.
#[derive(Clone, Debug, Default)]
pub struct Word {
    pub report: AgentReport,
    /// Why it could not be asked, or not be understood, the last time.
    pub error: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the agent does not answer within {PATIENCE:?}")]
    Silent,
    #[error("the agent can't be asked: {0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Nonsense(#[from] AgentError),
}

/// An agent has so long for its line.
const PATIENCE: Duration = Duration::from_secs(1);
/// A line is not longer than this.
const LINE: u64 = 1024;

impl Agents {
    /// Asks these and no others. Needs a tokio runtime.
    pub fn set(&mut self, wanted: BTreeMap<TargetKey, Question>) {
        self.asked.retain(|key, (question, task)| {
            let stays = wanted.get(key) == Some(question);
            if !stays {
                task.abort();
            }
            stays
        });
        self.lock().retain(|key, _| wanted.contains_key(key));
        for (key, question) in wanted {
            let said = Arc::clone(&self.said);
            let ask = |key: &TargetKey| tokio::spawn(follow(key.clone(), question, said)).abort_handle();
            self.asked.entry(key).or_insert_with_key(|key| (question, ask(key)));
        }
    }

    /// What each has said.
    pub fn words(&self) -> BTreeMap<TargetKey, Word> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<TargetKey, Word>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.asked.values().for_each(|(_, task)| task.abort());
    }
}

async fn follow(key: TargetKey, (address, interval): Question, said: Said) {
    loop {
        let answer = time::timeout(PATIENCE, ask(address)).await.unwrap_or(Err(Failure::Silent));
        {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            let word = said.entry(key.clone()).or_default();
            match answer {
                Ok(report) => *word = Word { report: std::mem::take(&mut word.report).followed_by(report), error: None },
                Err(error) => word.error = Some(error.to_string()),
            }
        }
        time::sleep(interval).await;
    }
}

async fn ask(address: SocketAddr) -> Result<AgentReport, Failure> {
    let mut line = Vec::new();
    let mut stream = TcpStream::connect(address).await?.take(LINE);
    // The line ends with a line feed, or with the connection.
    while !line.contains(&b'\n') && stream.read_buf(&mut line).await? > 0 {}
    Ok(parse_agent(&String::from_utf8_lossy(&line))?)
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;
    use crate::{model::BackendId, weights::Factor};

    #[tokio::test]
    async fn agents_are_asked_again_and_again_until_nobody_wants_to_know() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let key = TargetKey { service: "web".parse().unwrap(), backend: BackendId(address) };
        let mut agents = Agents::default();
        agents.set([(key.clone(), (address, Duration::from_millis(10)))].into());
        for (line, factor) in [("50%\n", Factor(1024)), ("drain", Factor::ZERO), ("what?\n", Factor::ZERO), ("ready\n", Factor(1024))] {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(line.as_bytes()).await.unwrap();
            drop(stream);
            let deadline = time::Instant::now() + Duration::from_secs(20);
            loop {
                let word = agents.words().get(&key).cloned().unwrap_or_default();
                if word.report != AgentReport::default() && word.report.factor() == factor && word.error.is_some() == line.contains('?') {
                    break;
                }
                assert!(time::Instant::now() < deadline, "{line}: {word:?}");
                time::sleep(Duration::from_millis(2)).await;
            }
        }
        agents.set(BTreeMap::new());
        assert!(agents.words().is_empty());
    }
}
