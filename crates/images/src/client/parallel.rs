//! Several transfers at a time within one task: what is dropped is stopped at once, and nothing outlives the caller.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
};

/// Runs all, at most `most` of them at a time, in their order; at the first failure the others are dropped.
///
/// # Errors
/// The first failure.
pub(super) async fn all<F, T, E>(most: usize, work: impl IntoIterator<Item = F>) -> Result<Vec<T>, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = work.into_iter();
    let mut running: Vec<Pin<Box<F>>> = Vec::new();
    let mut results = Vec::new();
    let every = poll_fn(|context| {
        loop {
            let free = most.max(1).saturating_sub(running.len());
            running.extend(waiting.by_ref().take(free).map(Box::pin));
            let mut ended = false;
            let mut position = 0;
            while position < running.len() {
                match running[position].as_mut().poll(context) {
                    Poll::Pending => position += 1,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Ready(Ok(value)) => {
                        results.push(value);
                        drop(running.remove(position));
                        ended = true;
                    }
                }
            }
            match (running.is_empty(), ended) {
                // Something ended, so that the next can begin.
                (_, true) => {}
                (true, false) => return Poll::Ready(Ok(())),
                (false, false) => return Poll::Pending,
            }
        }
    });
    pin!(every).await?;
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, time::Duration};

    #[tokio::test]
    async fn so_many_at_a_time_and_all_in_the_end() {
        let (now, most) = (Cell::new(0), Cell::new(0));
        let work = (0..10u64).map(|number| {
            let (now, most) = (&now, &most);
            async move {
                now.set(now.get() + 1);
                most.set(most.get().max(now.get()));
                tokio::time::sleep(Duration::from_millis(number % 3)).await;
                now.set(now.get() - 1);
                Ok::<_, ()>(number)
            }
        });
        let mut done = all(3, work).await.unwrap();
        done.sort_unstable();
        assert_eq!((done, most.get()), ((0..10).collect(), 3));
        assert_eq!(all(0, Vec::<std::future::Ready<Result<(), ()>>>::new()).await, Ok(vec![]));
    }

    #[tokio::test]
    async fn one_failure_ends_all() {
        let work = (0..4).map(|number| async move {
            if number == 1 {
                return Err(number);
            }
            std::future::pending::<Result<i32, i32>>().await
        });
        assert_eq!(all(2, work).await, Err(1));
    }
}
