use super::*;
use crate::{Fate, JobSpec, OnShutdown, Phase, testing};
use std::{
    io,
    sync::{Arc, Mutex},
    thread,
};
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);

fn drained(name: &'static str, stage: Stage) -> TaskSpec {
    TaskSpec::new(name).on_shutdown(OnShutdown::Drain).stage(stage)
}

#[tokio::test(start_paused = true)]
async fn stages_end_in_order() {
    let supervisor = testing::supervisor(&Metrics::new());
    let order = Arc::new(Mutex::new(Vec::new()));
    // Started base first; each takes its time, so that only the order of the stages can put them in order.
    for (name, stage, seconds) in
        [("store", Stage::Base, 0), ("worker", Stage::Work, 1), ("listener", Stage::Intake, 3)]
    {
        let order = order.clone();
        supervisor.spawn(drained(name, stage), move |shutdown| {
            let order = order.clone();
            async move {
                shutdown.requested().await;
                assert!(shutdown.is_requested());
                order.lock().unwrap().push(format!("{name} told"));
                sleep(SECOND * seconds).await;
                order.lock().unwrap().push(format!("{name} ended"));
                io::Result::Ok(())
            }
        });
    }
    // Dropped when its turn comes, not before.
    struct Dropped(Arc<Mutex<Vec<String>>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.lock().unwrap().push("exporter dropped".into());
        }
    }
    let dropped = Dropped(order.clone());
    supervisor.spawner().spawn_job(JobSpec::new("exporter").stage(Stage::Base), |_| async move {
        std::future::pending::<()>().await;
        drop(dropped);
        io::Result::Ok(())
    });
    supervisor.spawner().stop("test");
    let began = Instant::now();
    let exit = supervisor.run().await;
    assert_eq!((exit.cause.clone(), exit.code(), exit.left.len()), (Cause::Asked("test".into()), 0, 0));
    assert_eq!(began.elapsed().as_secs(), 4);
    let mut order = order.lock().unwrap().clone();
    order[4..].sort();
    assert_eq!(
        order,
        [
            "listener told",
            "listener ended",
            "worker told",
            "worker ended",
            "exporter dropped",
            "store ended",
            "store told"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_deadline_names_who_is_left() {
    let (log, _guard) = testing::log();
    let supervisor = testing::supervisor(&Metrics::new());
    supervisor.spawn(drained("good", Stage::Intake), |shutdown| async move {
        shutdown.requested().await;
        io::Result::Ok(())
    });
    supervisor.spawn(drained("deaf", Stage::Work).detail("10.0.0.7:53"), |shutdown| async move {
        let _hold = shutdown.hold("transfer of zone internal");
        std::future::pending::<()>().await;
        io::Result::Ok(())
    });
    supervisor.spawn(drained("store", Stage::Base), |_| std::future::pending::<io::Result<()>>());
    sleep(SECOND).await;
    supervisor.spawner().stop("test");
    let spawner = supervisor.spawner().clone();
    let began = Instant::now();
    let exit = supervisor.run().await;
    assert_eq!(began.elapsed().as_secs(), 10, "the deadline is one for all stages");
    assert_eq!((exit.interruption, exit.code()), (Some(Interruption::Deadline), 1));
    let names: Vec<_> = exit.left.iter().map(|report| (report.name, report.phase)).collect();
    assert_eq!(names, [("deaf", Phase::Waiting), ("store", Phase::Waiting)]);
    let held = &exit.left[0].held[0];
    assert_eq!((held.what.as_str(), held.age.as_secs()), ("transfer of zone internal", 11));
    assert!(held.at.file().ends_with("tests.rs"));
    let log = log.take();
    // While it waits it says for whom; for what has not been told to end it does not wait yet.
    let waits = |name| log.lines().filter(|line| line.contains("waiting for") && line.contains(name)).count();
    assert_eq!((waits("deaf"), waits("store")), (3, 0), "{log}");
    let line = log.lines().find(|line| line.contains("cancelled before it ended")).unwrap();
    for part in ["deaf (10.0.0.7:53), 11.0s old", "held up by transfer of zone internal for 11.0s", "WARN"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(!log.contains("cannot be cancelled"), "{log}");
    assert!(spawner.tasks().is_empty(), "they were cancelled");
    assert!(exit.to_string().contains("still running: deaf (10.0.0.7:53)"), "{exit}");
}

#[tokio::test(start_paused = true)]
async fn a_hold_outlives_its_task() {
    let supervisor = testing::supervisor(&Metrics::new());
    let spawner = supervisor.spawner().clone();
    supervisor.spawner().spawn_job(JobSpec::new("accept"), |shutdown| async move {
        // Handed to a thread that no supervisor knows.
        let hold = shutdown.hold("upload 17");
        tokio::spawn(async move {
            sleep(5 * SECOND).await;
            drop(hold);
        });
        io::Result::Ok(())
    });
    sleep(SECOND).await;
    assert_eq!(spawner.tasks()[0].phase, Phase::Ended);
    spawner.stop("test");
    let began = Instant::now();
    let exit = supervisor.run().await;
    assert_eq!((exit.interruption, began.elapsed().as_secs()), (None, 4));
    assert!(spawner.tasks().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hold_can_be_taken_after_the_end_of_its_task() {
    let supervisor = testing::supervisor(&Metrics::new());
    let (send, receive) = tokio::sync::oneshot::channel();
    supervisor.spawner().spawn_job(JobSpec::new("accept"), |shutdown| async move {
        send.send(shutdown).map_err(|_| io::Error::other("nobody"))
    });
    let shutdown = receive.await.unwrap();
    sleep(SECOND).await;
    let hold = shutdown.hold("late");
    assert_eq!(supervisor.spawner().tasks()[0].to_string().split(';').next(), Some("accept, 0.0s old, has ended"));
    drop(hold);
    assert!(supervisor.spawner().tasks().is_empty());
    supervisor.run().await;
    assert!(shutdown.is_requested(), "it can be asked after the end");
    tokio::time::timeout(SECOND, shutdown.requested()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn failures_while_draining_count() {
    let supervisor = testing::supervisor(&Metrics::new());
    supervisor.spawn(drained("store", Stage::Base).on_error(Fate::Shutdown), |shutdown| async move {
        shutdown.requested().await;
        Err(io::Error::other("disk full"))
    });
    supervisor.spawner().stop("test");
    let exit = supervisor.run().await;
    assert_eq!(exit.cause, Cause::Asked("test".into()));
    assert_eq!(exit.later, [Cause::Failed { task: "store", error: "disk full".into() }]);
    assert_eq!(exit.code(), 1, "what could not be written is not a clean end");
}

#[tokio::test(start_paused = true)]
async fn dropped_unused_it_cancels() {
    let supervisor = testing::supervisor(&Metrics::new());
    let spawner = supervisor.spawner().clone();
    supervisor.spawn(drained("deaf", Stage::Work), |_| std::future::pending::<io::Result<()>>());
    sleep(SECOND).await;
    assert_eq!(spawner.tasks().len(), 1);
    drop(supervisor);
    sleep(SECOND).await;
    assert!(spawner.tasks().is_empty());
}

#[test]
fn a_task_that_does_not_yield_is_told_from_one_that_waits() {
    let began = std::time::Instant::now();
    let exit = block_on(async {
        let builder = Supervisor::builder().without_signals().drain_within(Duration::from_millis(200));
        let supervisor = builder.start().unwrap();
        supervisor.spawn(drained("spins", Stage::Work), |_| async {
            thread::sleep(20 * SECOND);
            io::Result::Ok(())
        });
        while supervisor.spawner().tasks()[0].phase != Phase::Busy {
            tokio::task::yield_now().await;
        }
        supervisor.spawner().stop("test");
        supervisor.run().await
    });
    let exit = exit.unwrap();
    assert_eq!(
        exit.left.iter().map(|report| (report.name, report.phase)).collect::<Vec<_>>(),
        [("spins", Phase::Busy)]
    );
    assert!(began.elapsed() < 10 * SECOND, "neither the drain nor the runtime waits for it");
}

#[test]
fn without_a_runtime_it_says_so() {
    let error = Supervisor::builder().start().map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("no reactor running") || error.to_string().contains("runtime"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_panics_is_noticed_and_ends_nothing() {
    let (log, _guard) = testing::log();
    let metrics = Metrics::new();
    let mut supervisor = testing::supervisor(&metrics);
    assert!(!supervisor.reloads(Signal::HangUp), "nothing was declared for it");
    let mut calls = 0;
    supervisor.reload = Some(Box::new(move || {
        calls += 1;
        assert!(calls > 1, "no such file");
    }));
    assert!(!supervisor.reloads(Signal::Terminate));
    assert!(supervisor.reloads(Signal::HangUp) && supervisor.reloads(Signal::HangUp));
    assert_eq!(testing::value(&metrics, "task_panics_total{task=\"reload\"}"), 1);
    assert!(log.take().lines().any(|line| line.contains("ERROR") && line.contains("no such file")));
    assert_eq!(supervisor.run().await.cause, Cause::Finished);
}
