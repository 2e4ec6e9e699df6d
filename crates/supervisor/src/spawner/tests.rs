use super::*;
use crate::{Backoff, Metrics, OnShutdown, Phase, testing};
use std::{
    io,
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicU64},
    },
    time::Duration,
};
use tokio::sync::oneshot;

const SECOND: Duration = Duration::from_secs(1);

/// An error with a source.
#[derive(Debug, thiserror::Error)]
#[error("zone not loaded")]
struct NotLoaded(#[source] io::Error);

fn not_loaded() -> NotLoaded {
    NotLoaded(io::Error::other("disk on fire"))
}

fn quick() -> Fate {
    Fate::Restart(Backoff::new(Duration::from_millis(100), SECOND))
}

/// A task that runs until it is dropped.
fn idle(supervisor: &crate::Supervisor) {
    supervisor.spawn(TaskSpec::new("idle"), |_| std::future::pending::<io::Result<()>>());
}

#[tokio::test(start_paused = true)]
async fn an_error_whose_fate_is_shutdown_ends_the_process() {
    let (log, _guard) = testing::log();
    let metrics = Metrics::new();
    let supervisor = testing::supervisor(&metrics);
    idle(&supervisor);
    supervisor.spawn(TaskSpec::new("store").detail("db"), |_| async { Err(not_loaded()) });
    let exit = supervisor.run().await;
    assert_eq!(exit.cause, Cause::Failed { task: "store", error: "zone not loaded: disk on fire".into() });
    assert_eq!((exit.code(), exit.left.len(), exit.interruption), (1, 0, None));
    let log = log.take();
    let line = log.lines().find(|line| line.contains("task failed")).unwrap();
    for part in ["ERROR", "task=\"store\"", "detail=\"db\"", "zone not loaded: disk on fire", "the process ends"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert_eq!(testing::value(&metrics, "task_errors_total{task=\"store\"}"), 1);
    assert_eq!(testing::value(&metrics, "tasks_running{task=\"store\"}"), 0);
    assert_eq!(testing::value(&metrics, "tasks_running{task=\"idle\"}"), 0);
}

#[tokio::test(start_paused = true)]
async fn an_error_that_is_ignored_ends_the_task_alone() {
    let (log, _guard) = testing::log();
    let metrics = Metrics::new();
    let supervisor = testing::supervisor(&metrics);
    supervisor.spawn(TaskSpec::new("probe").on_error(Fate::Ignore), |_| async { Err(not_loaded()) });
    let finished = Arc::new(AtomicU32::new(0));
    let spec = JobSpec::new("other");
    supervisor.spawner().spawn_job(spec, {
        let finished = finished.clone();
        |_| async move {
            sleep(SECOND).await;
            finished.fetch_add(1, Ordering::Relaxed);
            io::Result::Ok(())
        }
    });
    let exit = supervisor.run().await;
    assert_eq!((exit.cause.clone(), exit.code()), (Cause::Finished, 0));
    assert_eq!(finished.load(Ordering::Relaxed), 1);
    assert_eq!(testing::value(&metrics, "task_errors_total{task=\"probe\"}"), 1);
    assert!(log.take().lines().any(|line| line.contains("WARN") && line.contains("task=\"probe\"")));
}

#[tokio::test(start_paused = true)]
async fn a_restart_backs_off_and_calms_down() {
    let metrics = Metrics::new();
    let supervisor = testing::supervisor(&metrics);
    let began = Arc::new(Mutex::new(Vec::new()));
    let backoff = Backoff::new(Duration::from_millis(100), SECOND).calm_after(10 * SECOND);
    let spec = TaskSpec::new("flaky").on_error(Fate::Restart(backoff));
    supervisor.spawn(spec, {
        let began = began.clone();
        move |_| {
            let runs = {
                let mut began = began.lock().unwrap();
                began.push(Instant::now());
                began.len()
            };
            async move {
                match runs {
                    1..=6 => Err(not_loaded()),
                    // Calm, but not for long enough; then for long enough; then the end.
                    7 => (sleep(9 * SECOND).await, Err(not_loaded())).1,
                    8 => (sleep(10 * SECOND).await, Err(not_loaded())).1,
                    _ => Ok(()),
                }
            }
        }
    });
    let seed = supervisor.spawner().shared.seed ^ 1u64.rotate_left(32);
    assert_eq!(supervisor.run().await.cause, Cause::Finished);
    let began = began.lock().unwrap();
    let gaps: Vec<_> = began.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let mut expected: Vec<_> = (0..8).map(|failures| backoff.delay(failures, seed)).collect();
    expected[6] += 9 * SECOND;
    expected[7] = 10 * SECOND + backoff.delay(0, seed);
    assert_eq!(gaps.len(), 8);
    for (index, (gap, expected)) in gaps.iter().zip(&expected).enumerate() {
        // Tokio's timers have a resolution of a millisecond, and round up.
        let late = gap.checked_sub(*expected);
        assert!(late.is_some_and(|late| late <= Duration::from_millis(2)), "{index}: {gap:?} for {expected:?}");
    }
    assert!(gaps[..6].iter().all(|gap| *gap <= SECOND + Duration::from_millis(2)), "bounded: {gaps:?}");
    assert_eq!(testing::value(&metrics, "task_restarts_total{task=\"flaky\"}"), 8);
    assert_eq!(testing::value(&metrics, "task_errors_total{task=\"flaky\"}"), 8);
}

/// One task that panics in its first run, with this fate; gives the exit, the runs and the log.
async fn panicking(fate: Fate, metrics: &Metrics) -> (crate::Exit, u32, String) {
    let (log, _guard) = testing::log();
    let supervisor = testing::supervisor(metrics);
    let runs = Arc::new(AtomicU32::new(0));
    supervisor.spawn(TaskSpec::new("parser").on_panic(fate), {
        let runs = runs.clone();
        move |_| {
            let run = runs.fetch_add(1, Ordering::Relaxed);
            async move {
                sleep(SECOND).await;
                assert!(run > 0, "byte {run} is wrong");
                io::Result::Ok(())
            }
        }
    });
    let exit = supervisor.run().await;
    (exit, runs.load(Ordering::Relaxed), log.take())
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_noticed_with_each_fate() {
    let cases = [
        (
            Fate::Shutdown,
            Cause::Panicked { task: "parser", message: "byte 0 is wrong".into() },
            1,
            1,
            "the process ends",
        ),
        (quick(), Cause::Finished, 0, 2, "it is begun again"),
        (Fate::Ignore, Cause::Finished, 0, 1, "the others go on"),
    ];
    for (fate, cause, code, expected, consequence) in cases {
        let metrics = Metrics::new();
        let (exit, runs, log) = panicking(fate, &metrics).await;
        assert_eq!((exit.code(), runs), (code, expected), "{fate:?}");
        assert_eq!(exit.cause, cause);
        let line = log.lines().find(|line| line.contains("task panicked")).unwrap();
        for part in ["ERROR", "task=\"parser\"", "byte 0 is wrong", consequence] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert_eq!(testing::value(&metrics, "task_panics_total{task=\"parser\"}"), 1);
        assert_eq!(testing::value(&metrics, "task_errors_total{task=\"parser\"}"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_noticed_wherever_it_is() {
    struct Bomb(&'static str);
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("{}", self.0)
        }
    }
    let metrics = Metrics::new();
    let supervisor = testing::supervisor(&metrics);
    let spec = |name| TaskSpec::new(name).on_panic(Fate::Ignore);
    supervisor.spawn(spec("closure"), |_| -> std::future::Ready<io::Result<()>> { panic!("in the closure") });
    supervisor.spawn(spec("end"), |_| {
        let bomb = Bomb("at the end");
        async move {
            drop(bomb);
            io::Result::Ok(())
        }
    });
    supervisor.spawn(spec("cancelled"), |_| {
        let bomb = Bomb("when cancelled");
        async move {
            sleep(1000 * SECOND).await;
            drop(bomb);
            io::Result::Ok(())
        }
    });
    let spawner = supervisor.spawner().clone();
    supervisor.spawn(TaskSpec::new("end of it").on_shutdown(OnShutdown::Drain), move |_| {
        let spawner = spawner.clone();
        async move {
            sleep(SECOND).await;
            spawner.stop("enough");
            io::Result::Ok(())
        }
    });
    let exit = supervisor.run().await;
    assert_eq!((exit.cause.clone(), exit.left.len()), (Cause::Asked("enough".into()), 0));
    for name in ["closure", "end", "cancelled"] {
        assert_eq!(testing::value(&metrics, &format!("task_panics_total{{task=\"{name}\"}}")), 1, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_restart_while_the_process_ends() {
    let metrics = Metrics::new();
    let supervisor = testing::supervisor(&metrics);
    let runs = Arc::new(AtomicU32::new(0));
    supervisor.spawn(TaskSpec::new("drains").on_error(quick()).on_shutdown(OnShutdown::Drain), {
        let runs = runs.clone();
        move |shutdown| {
            runs.fetch_add(1, Ordering::Relaxed);
            async move {
                shutdown.requested().await;
                Err(not_loaded())
            }
        }
    });
    // This one is told while it waits to be begun again.
    let slow = Fate::Restart(Backoff::new(1000 * SECOND, 1000 * SECOND));
    supervisor.spawn(TaskSpec::new("slow").on_error(slow), |_| async { Err(not_loaded()) });
    let began = Instant::now();
    supervisor.spawner().stop("test");
    let exit = supervisor.run().await;
    assert_eq!((exit.interruption, exit.code()), (None, 0));
    assert!(began.elapsed() < SECOND);
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    assert_eq!(testing::value(&metrics, "task_errors_total{task=\"drains\"}"), 1);
}

#[tokio::test(start_paused = true)]
async fn reports_say_what_a_task_does() {
    let supervisor = testing::supervisor(&Metrics::new());
    idle(&supervisor);
    let slow = Fate::Restart(Backoff::new(1000 * SECOND, 1000 * SECOND));
    supervisor.spawn(TaskSpec::new("failing").detail("a").on_error(slow), |_| async { Err(not_loaded()) });
    sleep(SECOND).await;
    let tasks = supervisor.spawner().tasks();
    assert_eq!(
        tasks.iter().map(|task| (task.name, task.phase)).collect::<Vec<_>>(),
        [("idle", Phase::Waiting), ("failing", Phase::BackingOff)]
    );
    assert_eq!(tasks[1].to_string(), "failing (a), 1.0s old, waits to be begun again");
}

#[tokio::test]
async fn blocking_work_gives_its_result_or_its_panic() {
    let (log, _guard) = testing::log();
    let metrics = Metrics::new();
    let supervisor = testing::supervisor(&metrics);
    let spawner = supervisor.spawner().clone();
    assert_eq!(spawner.blocking("sum", JobFate::Shutdown, || 1 + 1).await, Ok(2));
    let text = String::from("torn page");
    let error = spawner.blocking("read", JobFate::Ignore, move || panic!("{text}")).await.unwrap_err() as BlockingError;
    assert_eq!(error, BlockingError::Panicked { task: "read", message: "torn page".into() });
    assert_eq!(testing::value(&metrics, "task_panics_total{task=\"read\"}"), 1);
    assert!(spawner.tasks().is_empty());
    drop(log.take());
    let error = spawner.blocking("write", JobFate::Shutdown, || -> () { panic!("disk gone") }).await.unwrap_err();
    assert_eq!(error.to_string(), "write panicked: disk gone");
    let exit = supervisor.run().await;
    assert_eq!(exit.cause, Cause::Panicked { task: "write", message: "disk gone".into() });
    assert_eq!(spawner.blocking("late", JobFate::Ignore, || ()).await, Err(BlockingError::Ending { task: "late" }));
}

#[tokio::test]
async fn blocking_work_is_waited_for_also_when_nobody_wants_its_result() {
    let supervisor = testing::supervisor(&Metrics::new());
    let (begun, begins) = oneshot::channel();
    let ended = Arc::new(AtomicU64::new(0));
    let work = supervisor.spawner().blocking("flush", JobFate::Shutdown, {
        let ended = ended.clone();
        move || {
            begun.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(50));
            ended.store(1, Ordering::Relaxed);
        }
    });
    tokio::select! {
        _ = work => panic!("it cannot be done before it is begun"),
        begun = begins => begun.unwrap(),
    }
    assert_eq!(supervisor.spawner().tasks()[0].phase, Phase::Blocking);
    supervisor.spawner().stop("test");
    let exit = supervisor.run().await;
    assert_eq!((exit.left.len(), ended.load(Ordering::Relaxed)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_started_after_the_end() {
    let (log, _guard) = testing::log();
    let supervisor = testing::supervisor(&Metrics::new());
    let spawner = supervisor.spawner().clone();
    assert_eq!(supervisor.run().await.cause, Cause::Finished);
    spawner.spawn(TaskSpec::new("late"), |_| -> std::future::Ready<io::Result<()>> { unreachable!("not started") });
    sleep(SECOND).await;
    let log = log.take();
    assert!(log.contains("not started") && log.contains("late"), "{log}");
}
