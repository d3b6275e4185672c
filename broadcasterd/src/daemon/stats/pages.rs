//! The pages of the stats service, and the snapshot that requests share. It never renders on the thread of the bus.

use super::model::Stats;
use super::{metrics, process};
use hyper::body::Bytes;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

/// How long requests share one snapshot, and with it the pages that were rendered from it.
pub(super) const REUSE_FOR: Duration = Duration::from_millis(250);

/// Turns one snapshot of the daemon into statistics. It runs outside the thread of the bus.
pub(crate) type IntoStats = Box<dyn FnOnce() -> Stats + Send>;

/// A rendered page, or why it could not be rendered.
pub(super) type Page = Result<Bytes, String>;

/// The snapshot that all connections of the service share at the moment.
pub(super) struct Pages<S> {
    /// Takes a snapshot, on the thread of the bus; `None` once the daemon has stopped.
    source: S,
    current: RefCell<Option<Arc<Moment>>>,
}

impl<S: Fn() -> Option<IntoStats> + 'static> Pages<S> {
    pub(super) fn new(source: S) -> Rc<Self> {
        Rc::new(Self { source, current: RefCell::new(None) })
    }

    /// The snapshot for a request that arrives now: the current one while it is young enough, otherwise a new one. `None` once
    /// the daemon has stopped.
    pub(super) fn now(self: &Rc<Self>) -> Option<Arc<Moment>> {
        let current = self.current.borrow().as_ref().filter(|moment| moment.is_young()).map(Arc::clone);
        if current.is_some() {
            return current;
        }
        let moment = Arc::new(Moment::new((self.source)()?));
        self.current.replace(Some(Arc::clone(&moment)));
        // Without requests nothing is kept.
        let pages = Rc::clone(self);
        spawn_local(async move {
            sleep(REUSE_FOR).await;
            pages.current.borrow_mut().take_if(|moment| !moment.is_young());
        });
        Some(moment)
    }
}

/// One snapshot and its pages, each rendered once, for the first request that needs it.
pub(super) struct Moment {
    taken: Instant,
    stats: LazyLock<Stats, IntoStats>,
    metrics: OnceLock<Page>,
    json: OnceLock<Page>,
}

impl Moment {
    fn new(into_stats: IntoStats) -> Self {
        let named: IntoStats = Box::new(move || {
            let mut stats = into_stats();
            process::name(&mut stats.connections);
            stats
        });
        Self { taken: Instant::now(), stats: LazyLock::new(named), metrics: OnceLock::new(), json: OnceLock::new() }
    }

    fn is_young(&self) -> bool {
        self.taken.elapsed() < REUSE_FOR
    }

    /// `GET /metrics`. Blocks while the page is being rendered.
    pub(super) fn metrics(&self) -> Page {
        let render = || metrics::render(self.stats.clone()).map(Bytes::from).map_err(|error| error.to_string());
        self.metrics.get_or_init(render).clone()
    }

    /// `GET /stats.json`. Blocks while the page is being rendered.
    pub(super) fn json(&self) -> Page {
        let render = || serde_json::to_vec(&*self.stats).map(Bytes::from).map_err(|error| error.to_string());
        self.json.get_or_init(render).clone()
    }
}
