//! Addresses of anything that handles one type of message.

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{AskError, Recipient, SendError};

use crate::support::{one, two};

/// A message that two types of Works handle.
#[derive(Debug, Serialize, Deserialize)]
struct Ping(u32);

/// A message that nobody declares for other processes.
#[derive(Debug, Serialize, Deserialize)]
struct Private;

#[derive(Default, Serialize, Deserialize)]
struct Counter {
    got: Vec<u32>,
}

impl Work for Counter {
    type Input = ();

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Ping>();
    }
}

impl Handle<Ping> for Counter {
    type Reply = usize;

    async fn handle(&mut self, Ping(number): Ping, cx: &mut WorkContext<Self>) -> usize {
        self.got.push(number);
        cx.publish(self);
        self.got.len()
    }
}

impl Handle<Private> for Counter {
    type Reply = ();

    async fn handle(&mut self, _: Private, _cx: &mut WorkContext<Self>) {}
}

#[derive(Default, Serialize, Deserialize)]
struct Namer {
    got: Vec<u32>,
}

impl Work for Namer {
    type Input = ();

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Ping>();
    }
}

impl Handle<Ping> for Namer {
    type Reply = String;

    async fn handle(&mut self, Ping(number): Ping, cx: &mut WorkContext<Self>) -> String {
        self.got.push(number);
        cx.publish(self);
        format!("number {number}")
    }
}

fn start() -> TestApp {
    TestApp::start(|| two(WorkRef::<Counter>::default(), WorkRef::<Namer>::default(), |_, _, _| Ok(())))
}

/// Works of several types are in one list, and are told and asked as by their addresses.
#[test]
fn recipients_of_several_types_are_told_and_asked() {
    let app = start();
    let (a, b) = (app.work::<Counter>("a"), app.work::<Namer>("b"));
    let all: Vec<Recipient<Ping>> = vec![a.clone().into(), b.clone().into()];
    assert_eq!(all.iter().map(|to| to.path().as_str()).collect::<Vec<_>>(), ["a", "b"]);
    app.block_on(async {
        for recipient in &all {
            recipient.tell(Ping(1)).await.unwrap();
            recipient.try_tell(Ping(2)).unwrap();
            recipient.ask(Ping(3)).await.unwrap();
        }
        let (counter, namer) = (a.recipient::<Ping>(), b.recipient::<Ping>());
        assert_eq!(counter.ask(Ping(4)).await.unwrap(), 4);
        assert_eq!(namer.ask(Ping(4)).timeout(Duration::from_secs(30)).await.unwrap(), "number 4");
    });
    for work in ["a", "b"] {
        app.wait_for_state(&format!("{work}.got"), |got: &Vec<u32>| *got == [1, 2, 3, 4]);
    }
    assert_eq!(all[0], Recipient::from(a));
    assert_ne!(all[0], all[1]);
    app.stop().result.unwrap();
}

/// A message that is not delivered comes back, as from an address.
#[test]
fn message_to_a_stopped_recipient_comes_back() {
    let app = TestApp::start(|| {
        one(WorkRef::<Counter>::default(), |work, _| {
            if work.got == [1] {
                work.stop();
            }
            Ok(())
        })
    });
    let counter: Recipient<Ping> = app.work::<Counter>("work").into();
    app.block_on(counter.tell(Ping(1))).unwrap();
    app.wait_for_work("work", |work| !work.is_up);
    let error = app.block_on(counter.tell(Ping(2))).unwrap_err();
    assert!(matches!(error, SendError::Stopped { .. }), "{error}");
    assert_eq!(error.into_message().0, 2);
    let error = app.block_on(counter.ask(Ping(3))).unwrap_err();
    assert!(matches!(error, AskError::NotHandled(SendError::Stopped { .. })), "{error}");
    app.stop().result.unwrap();
}

/// A recipient is read back with the types with which it was made, and with no others.
#[test]
fn recipient_of_another_type_is_refused() {
    let app = start();
    let counter = app.work::<Counter>("a");
    let written = serde_json::to_value(counter.recipient::<Ping>()).unwrap();
    let read = serde_json::from_value::<Recipient<Ping, usize>>(written.clone()).unwrap();
    assert_eq!(app.block_on(read.ask(Ping(7))).unwrap(), 1);
    let without_reply = serde_json::from_value::<Recipient<Ping>>(written.clone()).unwrap();
    app.block_on(without_reply.ask(Ping(8))).unwrap();

    let error = serde_json::from_value::<Recipient<Ping, String>>(written.clone()).unwrap_err().to_string();
    assert!(error.contains("replies to `") && error.contains("with a `usize`"), "{error}");
    let error = serde_json::from_value::<Recipient<Private>>(written.clone()).unwrap_err().to_string();
    assert!(error.contains("messages.accept::<…>()"), "{error}");
    let mut other = written;
    other[2] = std::any::type_name::<Namer>().into();
    let error = serde_json::from_value::<Recipient<Ping>>(other).unwrap_err().to_string();
    assert!(error.contains("and not a `works::recipients::Namer`"), "{error}");
    app.stop().result.unwrap();
}

/// The recipient of a Work that has not joined the App leads nowhere, and is not serialised.
#[test]
fn recipient_before_its_work_has_joined_leads_nowhere() {
    let nowhere: Recipient<Ping> = WorkRef::<Counter>::default().addr().into();
    let error = nowhere.try_tell(Ping(1)).unwrap_err();
    assert!(matches!(error, SendError::Unknown { .. }), "{error}");
    assert_eq!((error.into_message().0, nowhere.waiting()), (1, 0));
    let error = serde_json::to_value(&nowhere).unwrap_err().to_string();
    assert!(error.contains("before its Work has joined"), "{error}");
}
