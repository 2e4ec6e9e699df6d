//! What a task is given: when to end, and a way to say what must be finished first.

use crate::{
    Stage, TaskSpec,
    table::{Registration, Shared},
};
use std::{panic::Location, sync::Arc};
use tokio::sync::watch;

/// Tells a task when its turn to end has come.
#[derive(Debug, Clone)]
pub struct Shutdown {
    shared: Arc<Shared>,
    id: u64,
    spec: Arc<TaskSpec>,
    told: watch::Receiver<Option<Stage>>,
}

impl Shutdown {
    pub(crate) fn new(registration: &Registration, spec: Arc<TaskSpec>) -> Self {
        let shared = registration.shared.clone();
        Self { told: shared.listen(), shared, id: registration.id, spec }
    }

    /// Returns when the task shall end; at once when that has been said before.
    pub async fn requested(&self) {
        let mut told = self.told.clone();
        let stage = Some(self.spec.stage);
        // An error means that nobody can say it any more, which says it too.
        drop(told.wait_for(|told| *told >= stage).await);
    }

    /// Whether the task shall end.
    pub fn is_requested(&self) -> bool {
        *self.told.borrow() >= Some(self.spec.stage)
    }

    /// Says that the task has not ended, for the purpose of the shutdown, before the value returned is dropped; also when
    /// that is handed to others and the task itself returns. A drain that takes long names `what`.
    #[track_caller]
    #[must_use]
    pub fn hold(&self, what: impl Into<String>) -> Hold {
        let hold = self.shared.hold(self.id, &self.spec, what.into(), Location::caller());
        Hold { shared: self.shared.clone(), id: self.id, hold }
    }
}

/// Unfinished work of a task, until dropped.
#[derive(Debug)]
pub struct Hold {
    shared: Arc<Shared>,
    id: u64,
    hold: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.release(self.id, self.hold);
    }
}
