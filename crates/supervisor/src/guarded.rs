//! A future whose panics come out as values.

use crate::panics;
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
};
use tracing::Span;

/// What a task's closure returns, made uniform.
pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Polls `work` inside `span`; a panic while it is polled or dropped is the message of that panic.
///
/// Unwind safety is asserted: what the task shared with others it must share by locks or channels, whose poisoning or
/// closing tells the others.
pub(crate) struct Guarded<'a, T> {
    work: Option<Work<T>>,
    name: &'static str,
    span: Span,
    /// Set while the work is being polled: a task that is found so again and again does not yield.
    polling: &'a AtomicBool,
}

impl<'a, T> Guarded<'a, T> {
    pub(crate) fn new(work: Work<T>, name: &'static str, span: Span, polling: &'a AtomicBool) -> Self {
        Self { work: Some(work), name, span, polling }
    }

    /// Drops the work; the message of the panic if that panics.
    pub(crate) fn discard(&mut self) -> Result<(), String> {
        let work = self.work.take();
        guard(self.name, &self.span, || drop(work))
    }
}

impl<T> Future for Guarded<'_, T> {
    type Output = Result<T, String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(work) = this.work.as_mut() else { return Poll::Pending };
        this.polling.store(true, Ordering::Relaxed);
        let polled = guard(this.name, &this.span, || work.as_mut().poll(context));
        this.polling.store(false, Ordering::Relaxed);
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(this.discard().map(|()| value)),
            // What the panic left of the work may panic once more; the first message is the one that explains.
            Err(message) => {
                drop(this.discard());
                Poll::Ready(Err(message))
            }
        }
    }
}

/// Runs `f` as the task `name`; the message of the panic if it panics.
pub(crate) fn guard<T>(name: &'static str, span: &Span, f: impl FnOnce() -> T) -> Result<T, String> {
    let _entered = span.enter();
    let _current = panics::enter(name);
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| message(&*payload).to_owned())
}

/// What a panic said.
pub(crate) fn message(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&'static str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "(a panic without text)",
    }
}
