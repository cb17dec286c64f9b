use super::*;

/// Counts how often the task is woken.
struct Wakes(std::sync::atomic::AtomicUsize);

impl std::task::Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

fn take(pending: &mut Pending) -> Vec<String> {
    let mut commands = Vec::new();
    let mut cx = Context::from_waker(Waker::noop());
    let _ = pending.poll_take(&mut cx, &mut commands);
    let name = |command: Command| match command {
        Command::Text(text) => text.to_string(),
        Command::Probe { .. } => "probe".to_owned(),
        Command::Close(close) => format!("close {}", close.reason),
    };
    commands.into_iter().map(name).collect()
}

fn text(length: usize) -> Utf8Bytes {
    "x".repeat(length).into()
}

#[test]
fn what_gathers_is_taken_at_once_and_in_order_with_one_wakeup() {
    let (out, mut pending) = outbox(1000);
    let wakes = Arc::new(Wakes(0.into()));
    let waker = wakes.clone().into();
    let mut commands = Vec::new();
    assert!(pending.poll_take(&mut Context::from_waker(&waker), &mut commands).is_pending());
    for name in ["a", "b", "c"] {
        assert!(out.text(name.into()));
    }
    let _answer = out.probe(Duration::from_secs(1));
    assert_eq!(wakes.0.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(take(&mut pending), ["probe", "a", "b", "c"], "a ping overtakes what waits");
    assert!(take(&mut pending).is_empty());
}

#[test]
fn what_was_taken_counts_until_it_is_written() {
    let (out, mut pending) = outbox(10 * FRAME_COST);
    for _ in 0..5 {
        assert!(out.text(text(FRAME_COST)));
    }
    assert_eq!(take(&mut pending).len(), 5);
    assert!(!out.text(text(1)), "still being written");
    assert!(!out.text(text(0)), "nothing more is taken in");
    let (out, mut pending) = outbox(10 * FRAME_COST);
    for _ in 0..100 {
        assert!(out.text(text(9 * FRAME_COST)), "the one before was written");
        assert_eq!(take(&mut pending).len(), 1);
        assert!(take(&mut pending).is_empty());
    }
}

#[test]
fn empty_frames_are_not_free_and_a_large_one_finds_room_alone() {
    let (out, _pending) = outbox(10 * FRAME_COST);
    assert_eq!((0..100).take_while(|_| out.text("".into())).count(), 10);
    let (out, _pending) = outbox(1000);
    assert!(out.text(text(5000)));
    assert!(!out.text(text(1)));
}

#[tokio::test]
async fn a_slow_reader_is_closed_and_what_waited_is_let_go() {
    let (out, mut pending) = outbox(1000);
    assert!(out.text(text(900)));
    assert!(!out.text(text(900)));
    assert_eq!(pending.ending().closed().await, TOO_SLOW);
    out.close(Close::policy("later"));
    assert_eq!(take(&mut pending), ["close reads too slowly"]);
    assert!(take(&mut pending).is_empty(), "once");
}

#[tokio::test]
async fn what_waits_is_sent_before_the_close() {
    let (out, mut pending) = outbox(1000);
    assert!(out.text("why".into()));
    let probe = out.probe(Duration::from_secs(3600));
    out.close(Close::policy("first"));
    out.close(Close::policy("second"));
    assert!(!out.text("late".into()));
    assert!(!probe.await, "who is being closed is as good as gone");
    assert_eq!(pending.ending().closed().await.reason, "first");
    assert_eq!(take(&mut pending), ["why", "close first"]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_answered_or_runs_out() {
    let second = Duration::from_secs(1);
    let (out, mut pending) = outbox(1000);
    let mut commands = Vec::new();
    for said in [true, false] {
        let asked = out.probe(second);
        pending.take(&mut commands).await;
        let Some(Command::Probe { within, answer }) = commands.pop() else { panic!("a probe") };
        assert_eq!(within, second);
        answer.send(said).unwrap();
        assert_eq!(asked.await, said);
    }
    let asked = out.probe(second);
    pending.take(&mut commands).await;
    commands.clear();
    assert!(!asked.await, "dropped");
    let untaken = out.probe(second);
    assert!(!untaken.await, "nobody came for it");
    let asked = out.probe(Duration::from_secs(3600));
    drop(pending);
    assert!(!asked.await, "the task has gone");
    assert!(!out.text("x".into()) && !out.probe(second).await);
}

#[tokio::test(start_paused = true)]
async fn probes_are_bounded() {
    let (out, mut pending) = outbox(1000);
    let asked: Vec<_> = (0..100).map(|_| out.probe(Duration::from_secs(1))).collect();
    assert_eq!(take(&mut pending).len(), MAX_PROBES);
    for (n, asked) in asked.into_iter().enumerate() {
        assert_eq!(asked.await, n >= MAX_PROBES, "beyond the bound nobody is called dead");
    }
}

#[tokio::test]
async fn a_task_on_another_thread_misses_nothing() {
    let (out, mut pending) = outbox(usize::MAX);
    let writer = std::thread::spawn(move || {
        for n in 0..20_000 {
            assert!(out.text(n.to_string().into()));
        }
        out.close(Close::policy("done"));
    });
    let (mut commands, mut next) = (Vec::new(), 0);
    'all: loop {
        pending.take(&mut commands).await;
        assert!(!commands.is_empty());
        for command in commands.drain(..) {
            match command {
                Command::Text(text) => {
                    assert_eq!(text.as_str(), next.to_string());
                    next += 1;
                }
                Command::Close(_) => break 'all,
                Command::Probe { .. } => panic!("nobody asked"),
            }
        }
    }
    assert_eq!(next, 20_000);
    writer.join().unwrap();
}
