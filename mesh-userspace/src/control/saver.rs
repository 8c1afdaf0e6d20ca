//! Saves the state beside the loop: a disk that is slow must not delay a failover.

use std::{
    fmt, io,
    sync::mpsc::{Receiver, Sender, channel},
    thread::JoinHandle,
};

use crate::state::{State, Store};

/// Called when a state is on disk, or with the reason why it is not.
pub type Done = Box<dyn FnOnce(Result<(), String>) + Send>;

/// The end of a thread that writes; dropping it writes what is left, and waits for that.
pub struct Saver {
    // The queue is as long as there are orders that wait for their answer, and the API bounds those.
    queue: Option<Sender<(State, Done)>>,
    thread: Option<JoinHandle<()>>,
}

impl Saver {
    pub fn spawn(store: Store) -> io::Result<Self> {
        let (queue, jobs) = channel();
        let thread = std::thread::Builder::new().name("mesh-state".into()).spawn(move || write(&store, &jobs))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Writes `state`, then calls `done`. Of states that wait, only the latest is written.
    pub fn save(&self, state: State, done: Done) {
        let refused = match &self.queue {
            Some(queue) => queue.send((state, done)).err().map(|e| e.0.1),
            None => Some(done),
        };
        if let Some(done) = refused {
            done(Err("the thread that saves the state has ended".to_owned()));
        }
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        drop(self.queue.take());
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            log::error!("the thread that saves the state has failed");
        }
    }
}

impl fmt::Debug for Saver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saver").finish_non_exhaustive()
    }
}

fn write(store: &Store, jobs: &Receiver<(State, Done)>) {
    while let Ok((mut state, done)) = jobs.recv() {
        let mut waiting = vec![done];
        while let Ok((newer, done)) = jobs.try_recv() {
            state = newer;
            waiting.push(done);
        }
        let result = store.save(&state).map_err(|e| e.to_string());
        for done in waiting {
            done(result.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Instance;

    #[test]
    fn the_latest_state_is_saved_and_everyone_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let saver = Saver::spawn(Store::open(dir.path(), &Instance::default()).unwrap()).unwrap();
        let (tell, told) = channel();
        for n in 0..50 {
            let state = State { removed: [format!("s{n}").parse().unwrap()].into(), ..State::default() };
            let tell = tell.clone();
            saver.save(state, Box::new(move |result| tell.send((n, result)).unwrap()));
        }
        drop(saver);
        drop(tell);
        assert_eq!(told.iter().collect::<Vec<_>>(), (0..50).map(|n| (n, Ok(()))).collect::<Vec<_>>());
        let found = Store::open(dir.path(), &Instance::default()).unwrap().load().unwrap();
        assert_eq!(found.state.removed, ["s49".parse().unwrap()].into());
    }

    #[test]
    fn a_disk_that_refuses_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let saver = Saver::spawn(Store::open(dir.path(), &Instance::default()).unwrap()).unwrap();
        std::fs::create_dir(dir.path().join("default.json.new")).unwrap();
        let (tell, told) = channel();
        saver.save(State::default(), Box::new(move |result| tell.send(result).unwrap()));
        assert!(told.recv().unwrap().unwrap_err().contains("default.json"));
    }
}
