//! A bounded number of threads for what blocks: files and the database.

use std::sync::Arc;
use supervisor::{BlockingError, JobFate, Spawner};
use tokio::sync::Semaphore;

/// Runs work where it may block; more than `size` pieces at once wait for each other.
#[derive(Clone)]
pub(super) struct Pool {
    spawner: Spawner,
    places: Arc<Semaphore>,
}

impl Pool {
    pub fn new(spawner: Spawner, size: usize) -> Self {
        Self { spawner, places: Arc::new(Semaphore::new(size)) }
    }

    /// Runs `work` and gives its result. Work that has begun runs to its end, also if nobody waits for it any more.
    ///
    /// # Errors
    /// It panicked, or the process ends.
    pub async fn run<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BlockingError> {
        // The semaphore is never closed; were it, the bound would go but not the work.
        let place = self.places.clone().acquire_owned().await.ok();
        self.spawner
            .blocking(name, JobFate::Ignore, move || {
                let result = work();
                drop(place);
                result
            })
            .await
    }
}
