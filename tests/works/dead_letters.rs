//! Messages that no handler saw, and the hook of the App for them.

use std::sync::mpsc;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{AskError, Batch, DeadLetter, DeadLetterReason, HandleBatch};

use crate::support::{one, wherever_it_runs};

/// A Work that is held by a message, until it is asked to stop.
#[derive(Default, Serialize, Deserialize)]
struct Sink {
    lives: u32,
    held: u32,
}

impl Work for Sink {
    type Input = ();

    async fn on_start(&mut self, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.lives += 1;
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Note>().accept::<Gather>();
    }
}

/// A message that holds the Work once this many messages wait behind it.
#[derive(Debug, Serialize, Deserialize)]
struct Hold(usize);

impl Handle<Hold> for Sink {
    type Reply = ();

    async fn handle(&mut self, Hold(waiting): Hold, cx: &mut WorkContext<Self>) {
        while cx.addr().waiting() < waiting {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.held += 1;
        cx.publish(self);
        let _ = cx.sleep(self, Duration::from_secs(3600)).await;
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Note(u32);

impl Handle<Note> for Sink {
    type Reply = ();

    async fn handle(&mut self, _: Note, _cx: &mut WorkContext<Self>) {}
}

/// A message of a batch that never fills.
#[derive(Debug, Serialize, Deserialize)]
struct Gather;

impl HandleBatch<Gather> for Sink {
    type Reply = ();

    fn batch(&self) -> Batch {
        Batch::of(100).within(Duration::from_secs(3600))
    }

    async fn handle_batch(&mut self, batch: Vec<Gather>, _cx: &mut WorkContext<Self>) -> Vec<()> {
        batch.into_iter().map(|_| ()).collect()
    }
}

/// An App with a Work that its Flow stops whenever the Work is held, and that starts again at once.
fn stopped_when_held(placement: Placement, hook: impl FnMut(&DeadLetter) + Send + 'static) -> TestApp {
    let app = App::new(move || {
        let mut stops = 0;
        one(WorkRef::from(Sink::default()).placed(placement), move |work, _| {
            work.run(());
            if work.held > stops {
                stops = work.held;
                work.stop();
            }
            Ok(())
        })
    });
    TestApp::start_app(app.on_dead_letter(hook))
}

/// Sends a message that holds the Work in this life, and three behind it.
fn lose_three(app: &TestApp, life: u32) {
    app.wait_for_state("work.lives", |lives: &u32| *lives == life);
    let work = app.work::<Sink>("work");
    work.try_tell(Hold(3)).expect("there is room");
    (0..3).for_each(|number| work.try_tell(Note(number)).expect("there is room"));
    app.wait_for_state("work.held", |held: &u32| *held == life);
}

/// A hook that panics gets the next letter all the same, and the App goes on.
fn panic_of_the_hook(placement: Placement) {
    let (sender, letters) = mpsc::channel();
    let app = stopped_when_held(placement, move |letter| {
        sender.send(letter.clone()).expect("the test waits");
        panic!("the hook panics");
    });
    let mut lost = 0;
    for life in 1..=2 {
        lose_three(&app, life);
        while lost < 3 * u64::from(life) {
            let letter = letters.recv().expect("the hook is called");
            assert_eq!((letter.to.as_str(), letter.reason), ("work", DeadLetterReason::Stopped));
            assert_eq!((letter.node.as_str(), letter.sender.to_string()), ("head", "outside".to_owned()));
            assert!(letter.message.ends_with("::Note"), "{letter:?}");
            lost += letter.count;
        }
    }
    assert_eq!(lost, 6);
}

#[test]
fn hook_that_panics_is_called_again() {
    wherever_it_runs(panic_of_the_hook);
}

/// A hook that is slow holds up nobody; what is lost meanwhile comes as one letter with its number.
#[test]
fn slow_hook_gets_equal_letters_as_one() {
    wherever_it_runs(|placement| {
        let (sender, letters) = mpsc::channel();
        let (open, gate) = mpsc::channel::<()>();
        let app = stopped_when_held(placement, move |letter| {
            sender.send(letter.clone()).expect("the test waits");
            // The gate is open once its other end is dropped.
            let _ = gate.recv();
        });
        lose_three(&app, 1);
        let first = letters.recv().expect("the hook is called");
        (2..=6).for_each(|life| lose_three(&app, life));
        app.wait_for_state("work.lives", |lives: &u32| *lives == 7);
        drop(open);
        // The letters of each stop are equal to those of the others, and at most two find the hook ready for them.
        let mut counts = vec![first.count];
        while counts.iter().sum::<u64>() < 18 {
            counts.push(letters.recv().expect("the hook is called").count);
        }
        assert!(counts.len() <= 3 && counts.iter().sum::<u64>() == 18, "{counts:?}");
    });
}

/// An App with a Work that serves for this long, until it is ended by force.
fn serving(
    placement: Placement,
    timeout: Duration,
    hook: impl FnMut(&DeadLetter) + Send + 'static,
) -> TestApp {
    let app = App::new(move || {
        let work =
            WorkRef::from(Sink::default()).placed(placement).timeout(timeout).on_error(OnError::Capture);
        one(work, |work, _| {
            work.run(());
            Ok(())
        })
    });
    TestApp::start_app(app.on_dead_letter(hook))
}

/// An error that gives the message back makes no letter.
#[test]
fn returned_message_is_no_letter() {
    wherever_it_runs(|placement| {
        let (sender, letters) = mpsc::channel();
        let app = serving(placement, Duration::MAX, move |letter| {
            sender.send(letter.clone()).expect("the test waits")
        });
        app.wait_for_work("work", |work| work.is_up && work.status.stage == Stage::Running);
        let work = app.work::<Sink>("work");
        work.try_tell(Hold(0)).expect("there is room");
        app.wait_for_state("work.held", |held: &u32| *held == 1);
        let asked = app.block_on(async {
            let asked = work.ask(Note(1));
            let (asked, _) = tokio::join!(asked, async { app.control().stop("the test ends") });
            asked
        });
        assert!(matches!(asked, Err(AskError::NotHandled(_))), "{asked:?}");
        app.stop();
        assert!(work.try_tell(Note(2)).is_err(), "the Work has stopped");
        assert_eq!(letters.recv().ok(), None);
    });
}

/// Messages that an incarnation gathers for a batch when it is ended by force are letters.
#[test]
fn messages_of_an_interrupted_batch_are_letters() {
    wherever_it_runs(|placement| {
        let (sender, letters) = mpsc::channel();
        let app = serving(placement, Duration::from_secs(1), move |letter| {
            sender.send(letter.clone()).expect("the test waits");
        });
        app.wait_for_work("work", |work| work.is_up && work.status.stage == Stage::Running);
        let work = app.work::<Sink>("work");
        (0..2).for_each(|_| work.try_tell(Gather).expect("there is room"));
        let mut lost = 0;
        while lost < 2 {
            let letter = letters.recv().expect("the hook is called");
            assert_eq!(letter.reason, DeadLetterReason::Interrupted, "{letter:?}");
            lost += letter.count;
        }
        assert_eq!(lost, 2);
    });
}
