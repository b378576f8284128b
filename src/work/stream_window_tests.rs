//! Random schedules of both ends of a stream, and of the way between them, against a model.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use proptest::prelude::*;

use super::*;

/// The reason why a stream is not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Failed,
    Lost,
}

/// A message on its way to the reader.
#[derive(Debug, Clone, Copy, PartialEq)]
enum There {
    Item(u32),
    End(Result<(), Broken>),
}

/// A message on its way to the sender.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Back {
    Credit(u32),
    Left,
}

#[derive(Debug, Clone, Copy)]
enum Op {
    /// Sends an item if there is credit for it; waits for credit otherwise.
    Send,
    /// Gives up a wait.
    StopWaiting,
    Finish,
    /// The sender fails or is dropped, or its incarnation ends.
    Fail,
    Read,
    /// The reader is dropped.
    Leave,
    /// A message arrives at the reader.
    ArriveThere,
    /// A message arrives at the sender.
    ArriveBack,
    /// The node is lost: each end is told so, and nothing arrives any more.
    Lose,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        30 => Just(Op::Send),
        2 => Just(Op::StopWaiting),
        1 => Just(Op::Finish),
        1 => Just(Op::Fail),
        30 => Just(Op::Read),
        1 => Just(Op::Leave),
        30 => Just(Op::ArriveThere),
        20 => Just(Op::ArriveBack),
        1 => Just(Op::Lose),
    ]
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A task that is polled only when it was woken.
#[derive(Default)]
struct Task {
    flag: Arc<Flag>,
    waits: bool,
}

impl Task {
    fn waker(&mut self) -> Waker {
        self.flag.0.store(false, Ordering::SeqCst);
        self.flag.clone().into()
    }

    fn is_woken(&self) -> bool {
        self.flag.0.load(Ordering::SeqCst)
    }
}

struct Checked {
    window: u32,
    sender: SendWindow,
    reader: ReadWindow<u32, Broken>,
    there: VecDeque<There>,
    back: VecDeque<Back>,
    send: Task,
    read: Task,
    // The model.
    sent: u32,
    received: u32,
    /// The end that the sender has sent.
    end: Option<Result<(), Broken>>,
    seen: Option<Result<(), Broken>>,
    has_left: bool,
    is_lost: bool,
}

impl Checked {
    fn new(window: u32) -> Self {
        Self {
            window,
            sender: SendWindow::new(window),
            reader: ReadWindow::new(window),
            there: VecDeque::new(),
            back: VecDeque::new(),
            send: Task::default(),
            read: Task::default(),
            sent: 0,
            received: 0,
            end: None,
            seen: None,
            has_left: false,
            is_lost: false,
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Send => self.send(),
            Op::StopWaiting => self.send.waits = false,
            Op::Finish => self.end(Ok(())),
            Op::Fail => self.end(Err(Broken::Failed)),
            Op::Read => self.read(),
            Op::Leave => {
                if !self.has_left {
                    self.has_left = true;
                    self.read.waits = false;
                    let (items, is_to_tell) = self.reader.leave();
                    drop(items);
                    if is_to_tell && !self.is_lost {
                        self.back.push_back(Back::Left);
                    }
                }
            }
            Op::ArriveThere => match self.there.pop_front() {
                None => {}
                Some(There::Item(item)) => match self.reader.item(item) {
                    Ok(reader) => reader.into_iter().for_each(Waker::wake),
                    Err(NotQueued::Late(_)) => assert!(self.has_left, "no item follows the end"),
                    Err(NotQueued::Overrun(item)) => panic!("item {item} exceeds the window"),
                },
                Some(There::End(end)) => self.reader.end(end).into_iter().for_each(Waker::wake),
            },
            Op::ArriveBack => match self.back.pop_front() {
                None => {}
                Some(Back::Credit(more)) => {
                    let sender = self.sender.grant(more).expect("it is within the window");
                    sender.into_iter().for_each(Waker::wake);
                }
                Some(Back::Left) => self.sender.leave().into_iter().for_each(Waker::wake),
            },
            Op::Lose => {
                if !std::mem::replace(&mut self.is_lost, true) {
                    self.there.clear();
                    self.back.clear();
                    self.reader.end(Err(Broken::Lost)).into_iter().for_each(Waker::wake);
                    self.sender.leave().into_iter().for_each(Waker::wake);
                }
            }
        }
    }

    fn send(&mut self) {
        if self.send.waits && !self.send.is_woken() {
            return;
        }
        let waker = self.send.waker();
        let ready = self.sender.poll_ready(&mut Context::from_waker(&waker));
        self.send.waits = ready.is_pending();
        match ready {
            Poll::Pending => assert_eq!(self.sender.spend(), Err(NotSent::NoCredit)),
            Poll::Ready(Err(why)) => {
                assert_eq!(why, NotSent::Closed);
                assert!(self.sender.is_closed());
                assert_eq!(self.sender.spend(), Err(NotSent::Closed));
            }
            Poll::Ready(Ok(())) => {
                assert_eq!(self.sender.spend(), Ok(()));
                self.there.push_back(There::Item(self.sent));
                self.sent += 1;
            }
        }
    }

    fn end(&mut self, end: Result<(), Broken>) {
        let (is_first, sender) = self.sender.end();
        sender.into_iter().for_each(Waker::wake);
        self.send.waits &= !self.send.is_woken();
        if is_first {
            assert_eq!(self.end.replace(end), None, "a stream ends once");
            self.there.push_back(There::End(end));
        }
    }

    fn read(&mut self) {
        if self.has_left || self.read.waits && !self.read.is_woken() {
            return;
        }
        let waker = self.read.waker();
        let next = self.reader.poll_next(&mut Context::from_waker(&waker));
        if let Some(more) = self.reader.take_grant()
            && !self.is_lost
        {
            self.back.push_back(Back::Credit(more));
        }
        self.read.waits = next.is_pending();
        match next {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(item))) => {
                assert_eq!(item, self.received, "items come in order, none is lost or doubled");
                assert_eq!(self.seen, None, "no item comes after the end");
                self.received += 1;
            }
            Poll::Ready(Some(Err(error))) => assert_eq!(self.seen.replace(Err(error)), None),
            Poll::Ready(None) => {
                let seen = *self.seen.get_or_insert(Ok(()));
                assert!(seen.is_err() || self.received == self.sent, "a complete stream has all items");
                assert!(self.reader.is_over());
            }
        }
    }

    fn check(&mut self) {
        let items = self.there.iter().filter(|there| matches!(there, There::Item(_))).count();
        let credit = self.back.iter().map(|back| if let Back::Credit(more) = back { *more } else { 0 });
        let (items, credit) = (u32::try_from(items).unwrap(), credit.sum::<u32>());
        let waiting = u32::try_from(self.reader.items.len()).unwrap();
        assert!(items + waiting <= self.window, "more items than the window are in flight");
        let is_open = !self.is_lost && !self.has_left && matches!(self.reader.state, Reading::Open);
        if is_open {
            let (spare, owed) = (self.sender.credit.left, self.reader.owed);
            assert_eq!(spare + items + waiting + owed + credit, self.window, "credit leaks");
            assert_eq!(self.reader.credit.left, spare + items + credit);
        }
        // Nobody waits who could go on, without having been woken.
        let mut idle = Context::from_waker(Waker::noop());
        if self.send.waits && !self.send.is_woken() {
            assert!(self.sender.credit.left == 0 && !self.sender.is_closed(), "the sender was not woken");
        }
        if self.read.waits && !self.read.is_woken() {
            assert!(waiting == 0 && matches!(self.reader.state, Reading::Open), "the reader was not woken");
        }
        if self.has_left {
            assert_eq!(self.reader.poll_next(&mut idle), Poll::Ready(None));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// Whatever happens in which order, the reader gets the items in order and the end once, no more items than the
    /// window are in flight, no credit is lost, and whoever can go on is woken. In the end the reader has seen the end
    /// that was sent, or that the node is lost, and a sender whose reader has gone knows it.
    #[test]
    fn ends_of_a_stream_agree(window in 1..9_u32, ops in prop::collection::vec(op(), 0..200)) {
        let mut checked = Checked::new(window);
        for op in ops {
            checked.apply(op);
            checked.check();
        }
        // All that is on its way arrives, and the reader reads on. A sender that has not ended can send on.
        let before = checked.sent;
        for _ in 0..2 * window + 2 {
            for op in [Op::ArriveThere, Op::ArriveBack, Op::Read, Op::Send, Op::ArriveThere, Op::Read] {
                checked.apply(op);
                checked.check();
            }
        }
        if checked.is_lost || checked.has_left {
            prop_assert!(checked.sender.is_closed());
        } else if checked.end.is_none() {
            prop_assert!(checked.sent > before, "the sender is stuck");
        }
        checked.apply(Op::Finish);
        for _ in 0..2 * window + 4 {
            checked.apply(Op::ArriveThere);
            checked.apply(Op::Read);
            checked.check();
        }
        if !checked.has_left {
            let expected = if checked.seen == Some(Err(Broken::Lost)) { None } else { checked.end };
            prop_assert_eq!(checked.seen.filter(|seen| *seen != Err(Broken::Lost)), expected);
            prop_assert!(checked.is_lost || checked.received == checked.sent);
            prop_assert!(checked.seen.is_some());
        }
    }
}

#[test]
fn credit_beyond_the_window_is_refused() {
    let mut sender = SendWindow::new(2);
    assert_eq!(sender.grant(1).unwrap_err(), TooMuchCredit);
    assert_eq!(sender.spend(), Ok(()));
    assert!(sender.grant(2).is_err());
    assert!(sender.grant(1).is_ok());
    assert!(sender.grant(u32::MAX).is_err());
}

#[test]
fn item_beyond_the_window_is_refused() {
    let mut reader = ReadWindow::<u32, Broken>::new(1);
    assert!(reader.item(1).is_ok());
    assert_eq!(reader.item(2).unwrap_err(), NotQueued::Overrun(2));
    drop(reader.end(Ok(())));
    assert_eq!(reader.item(3).unwrap_err(), NotQueued::Late(3));
}
