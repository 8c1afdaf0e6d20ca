//! What the sources of backends say.

use std::time::Instant;

use super::daemon::Daemon;
use crate::{discovery::News, events::What};

impl Daemon {
    /// Takes in all that the sources have said, and publishes it together.
    pub(super) fn sources_say(&mut self, news: News, now: Instant) {
        for (key, error) in news.troubles {
            self.tell(What::SourceTrouble { service: key.service, source: key.source, error });
        }
        for key in news.returned {
            self.tell(What::SourceReturned { service: key.service, source: key.source });
        }
        if self.core.found(news.updates) {
            self.act();
            self.dirty(now);
        }
    }
}
