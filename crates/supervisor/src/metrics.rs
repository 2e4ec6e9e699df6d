//! The one registry of metrics of a process.

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The registry, shared by handle. That of a new one holds, by the label `task`: `tasks_running`, `task_restarts_total`,
/// `task_errors_total`, `task_panics_total`; and `log_lines_dropped_total`.
#[derive(Debug, Clone)]
pub struct Metrics {
    shared: Arc<Mutex<Shared>>,
    tasks: TaskMetrics,
    log_lines_dropped: Counter,
}

#[derive(Debug)]
struct Shared {
    registry: Registry,
    prefixes: BTreeSet<String>,
}

/// Two parts of the process want the same prefix; their metrics would collide, and scrapers refuse such a text whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("metrics with the prefix `{prefix}` are registered already")]
pub struct PrefixTaken {
    /// That prefix.
    pub prefix: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry with the metrics of tasks and logs.
    pub fn new() -> Self {
        Self::within(Registry::default())
    }

    /// The same; every name begins with `prefix` and an underscore.
    pub fn with_prefix(prefix: &str) -> Self {
        Self::within(Registry::with_prefix(prefix))
    }

    fn within(mut registry: Registry) -> Self {
        let tasks = TaskMetrics::default();
        let log_lines_dropped = Counter::default();
        registry.register("tasks_running", "Tasks that have not ended", tasks.running.clone());
        registry.register("task_restarts", "Times a task was begun again after a failure", tasks.restarts.clone());
        registry.register("task_errors", "Times a task ended with an error", tasks.errors.clone());
        registry.register("task_panics", "Times a task panicked", tasks.panics.clone());
        registry.register(
            "log_lines_dropped",
            "Lines of the log that were dropped because nobody took them",
            log_lines_dropped.clone(),
        );
        let shared = Shared { registry, prefixes: BTreeSet::new() };
        Self { shared: Arc::new(Mutex::new(shared)), tasks, log_lines_dropped }
    }

    /// Lets one part of the process register its metrics; their names begin with `prefix` and an underscore.
    ///
    /// # Errors
    /// When the prefix has been given away.
    pub fn register(&self, prefix: &str, register: impl FnOnce(&mut Registry)) -> Result<(), PrefixTaken> {
        let mut shared = self.lock();
        if !shared.prefixes.insert(prefix.to_owned()) {
            return Err(PrefixTaken { prefix: prefix.to_owned() });
        }
        register(shared.registry.sub_registry_with_prefix(prefix));
        Ok(())
    }

    /// Everything, as OpenMetrics text (media type [`Metrics::MEDIA_TYPE`]).
    ///
    /// When a collector fails it is logged and the text lacks its last line `# EOF`, so that a scraper refuses it rather
    /// than take a part for the whole.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        if text::encode(&mut out, &self.lock().registry).is_err() {
            tracing::error!("a collector of metrics failed; the text is incomplete");
        }
        out
    }

    /// Of the text that [`Metrics::encode`] gives.
    pub const MEDIA_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    pub(crate) fn tasks(&self) -> &TaskMetrics {
        &self.tasks
    }
    pub(crate) fn log_lines_dropped(&self) -> &Counter {
        &self.log_lines_dropped
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A panic inside a registering closure leaves the registry with fewer metrics, not with broken ones.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type ByTask<M> = Family<[(&'static str, &'static str); 1], M>;

/// What is counted of tasks, by their name.
#[derive(Debug, Clone, Default)]
pub(crate) struct TaskMetrics {
    running: ByTask<Gauge>,
    restarts: ByTask<Counter>,
    errors: ByTask<Counter>,
    panics: ByTask<Counter>,
}

impl TaskMetrics {
    pub(crate) fn started(&self, task: &'static str) {
        self.running.get_or_create(&[("task", task)]).inc();
        // From the first scrape on, so that a rate over them sees the first failure too.
        drop(self.restarts.get_or_create(&[("task", task)]));
        drop(self.errors.get_or_create(&[("task", task)]));
        drop(self.panics.get_or_create(&[("task", task)]));
    }
    pub(crate) fn ended(&self, task: &'static str) {
        self.running.get_or_create(&[("task", task)]).dec();
    }
    pub(crate) fn restarted(&self, task: &'static str) {
        self.restarts.get_or_create(&[("task", task)]).inc();
    }
    pub(crate) fn failed(&self, task: &'static str) {
        self.errors.get_or_create(&[("task", task)]).inc();
    }
    pub(crate) fn panicked(&self, task: &'static str) {
        self.panics.get_or_create(&[("task", task)]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_open_metrics_with_all_prefixes() {
        let metrics = Metrics::with_prefix("house");
        metrics.tasks().started("dns-udp");
        metrics.tasks().restarted("dns-udp");
        let queries = Counter::<u64>::default();
        metrics.register("dns", |registry| registry.register("queries", "Questions asked", queries.clone())).unwrap();
        queries.inc_by(3);
        let text = metrics.encode();
        for line in [
            "# TYPE house_tasks_running gauge",
            "house_tasks_running{task=\"dns-udp\"} 1",
            "house_task_restarts_total{task=\"dns-udp\"} 1",
            "house_task_panics_total{task=\"dns-udp\"} 0",
            "house_log_lines_dropped_total 0",
            "house_dns_queries_total 3",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn a_prefix_is_given_once() {
        let metrics = Metrics::new();
        metrics.register("dns", |_| ()).unwrap();
        let error = metrics.register("dns", |_| unreachable!("refused before")).unwrap_err();
        assert_eq!(error.to_string(), "metrics with the prefix `dns` are registered already");
    }

    #[test]
    fn a_failing_collector_is_not_taken_for_the_whole() {
        use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
        #[derive(Debug)]
        struct Broken;
        impl Collector for Broken {
            fn encode(&self, _: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
                Err(std::fmt::Error)
            }
        }
        let metrics = Metrics::new();
        metrics.register("x", |registry| registry.register_collector(Box::new(Broken))).unwrap();
        assert!(!metrics.encode().contains("# EOF"));
    }
}
