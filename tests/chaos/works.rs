//! The Works of a run, which record their actions, and the Flow above them, which records its views.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use flowright::prelude::*;
use flowright::{
    AskError, DeadLetter, DeadLetterSender, Messages, Overlap, PayloadError, Placement, SendError, ServiceRef,
};

use crate::exchanges::{Batched, Listing, Relay, ask_batched, is_relay, read_stream, relay};
use crate::http::SERVICES;
use crate::plan::{Plan, Rng, Role, ServicePlan};
use crate::records::{self, Event, Kind, LetterSender, Life, Outcome, Reading, record, unique};

/// Environment variables of the processes of a run.
pub(crate) const SEED: &str = "FLOWRIGHT_CHAOS_PLAN";
pub(crate) const EPOCH: &str = "FLOWRIGHT_CHAOS_EPOCH";

/// Deadline of an `ask`.
pub(crate) const ASK: Duration = Duration::from_secs(8);
/// Time within which a new version of a service has to be ready.
const READY: Duration = Duration::from_secs(3);
/// Time limit for reading a payload.
const READ: Duration = Duration::from_secs(20);

/// While this file of the run exists, no Work sends anything.
pub(crate) fn quiet_file() -> PathBuf {
    records::directory().join("quiet")
}

fn is_quiet() -> bool {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(quiet_file).exists()
}

/// Records when the machine does not schedule this process, which is no fault of the runtime.
fn record_stalls() {
    const MOMENT: Duration = Duration::from_millis(200);
    const LEAST: Duration = Duration::from_millis(500);
    let watch = || {
        loop {
            let began = Instant::now();
            std::thread::sleep(MOMENT);
            let late = began.elapsed().saturating_sub(MOMENT);
            if late >= LEAST {
                records::record(Event::Stalled {
                    micros: u64::try_from(late.as_micros()).unwrap_or(u64::MAX),
                });
            }
        }
    };
    std::thread::Builder::new().name("stalls".to_owned()).spawn(watch).expect("a thread can be started");
}

/// Runs a head or a node.
pub(crate) fn program() -> ExitCode {
    records::open();
    record_stalls();
    // Requested panics are not printed: the backtrace of one takes a hundred MiB, and would look like a leak.
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.location().is_none_or(|location| location.file() != file!()) {
            shown(info);
        }
    }));
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number(SEED).expect("a process of a run is told its seed");
    let epoch = number(EPOCH).unwrap_or_default() as u32;
    let app = App::new(move || Troupe::new(&Plan::new(seed, Duration::ZERO), epoch));
    app.on_dead_letter(move |letter| record(letter_of(epoch, letter))).main()
}

fn letter_of(epoch: u32, letter: &DeadLetter) -> Event {
    Event::Letter {
        epoch,
        to: letter.to.to_string(),
        message: letter.message.clone(),
        sender: match &letter.sender {
            DeadLetterSender::Work(path) => LetterSender::Work(path.to_string()),
            DeadLetterSender::Outside => LetterSender::Outside,
            _ => LetterSender::Unknown,
        },
        reason: letter.reason.to_string(),
        count: letter.count,
    }
}

/// The checksum of a payload's content: FNV-1a over words of eight bytes.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The right answer to a question with this number.
pub(crate) fn answer_to(number: u64) -> u64 {
    Rng::new(number).next()
}

/// A payload and the checksum of its content.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Parcel {
    name: String,
    sum: u64,
    value: Payload<Vec<u8>>,
}

impl Parcel {
    fn make(life: Life, rng: &mut Rng, cx: &WorkContext<Member>) -> Option<Self> {
        let length = match rng.below(20) {
            0 => rng.between(1 << 20, 3 << 20),
            1..6 => rng.between(10_000, 200_000),
            _ => rng.between(1, 5_000),
        };
        let mut content = Rng::new(rng.next());
        let bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| content.next().to_le_bytes()).collect();
        let (name, sum) = (format!("p{}", unique()), checksum(&bytes));
        match cx.payload(bytes) {
            Ok(value) => {
                record(Event::Made { life, parcel: name.clone(), length });
                Some(Self { name, sum, value })
            }
            Err(error) => {
                record(Event::Read { life, parcel: name, reading: reading_of(&error) });
                None
            }
        }
    }

    /// Reads the value and records the result.
    async fn read(self, life: Life) {
        let mut reading = Unread { life, name: self.name, done: false };
        let outcome = match tokio::time::timeout(READ, self.value.value()).await {
            Ok(Ok(bytes)) if checksum(&bytes) == self.sum => Reading::Verified,
            Ok(Ok(_)) => Reading::Different,
            Ok(Err(error)) => reading_of(&error),
            Err(_) => Reading::Late,
        };
        reading.done(outcome);
    }
}

fn reading_of(error: &PayloadError) -> Reading {
    let text = error.to_string();
    match error {
        PayloadError::Lost { .. } => Reading::Lost(text),
        PayloadError::NoRoom { .. } => Reading::NoRoom(text),
        _ => Reading::Failed(text),
    }
}

/// Records on drop that a reader was ended.
struct Unread {
    life: Life,
    name: String,
    done: bool,
}

impl Unread {
    fn done(&mut self, reading: Reading) {
        self.done = true;
        record(Event::Read { life: self.life, parcel: self.name.clone(), reading });
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        if !self.done {
            self.done(Reading::Cancelled);
        }
    }
}

/// A message that is being sent; records on drop that its sender gave up.
pub(crate) struct Sending {
    pub(crate) id: String,
    done: bool,
}

impl Sending {
    pub(crate) fn begin(from: &Sender, to: &str, kind: Kind) -> Self {
        let id = format!("m{}", unique());
        record(Event::Trying { life: from.life, id: id.clone(), to: to.to_owned(), epoch: from.epoch, kind });
        Self { id, done: false }
    }

    pub(crate) fn done(mut self, outcome: Outcome) {
        self.done = true;
        record(Event::Sent { id: self.id.clone(), outcome });
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.done {
            record(Event::Sent { id: self.id.clone(), outcome: Outcome::Cancelled });
        }
    }
}

fn told<M>(sent: Result<(), SendError<M>>) -> Outcome {
    match sent {
        Ok(()) => Outcome::Accepted,
        Err(error) => not_sent(&error),
    }
}

fn not_sent<M>(error: &SendError<M>) -> Outcome {
    match error {
        SendError::Unsendable { .. } => Outcome::Wrong(error.to_string()),
        _ => Outcome::NotHandled(error.to_string()),
    }
}

pub(crate) fn answered<M>(id: &str, number: u64, answer: Result<&Answer, &AskError<M>>) -> Outcome {
    match answer {
        Ok(answer) if answer.id == id && answer.number == answer_to(number) => Outcome::Answered,
        Ok(answer) => Outcome::Wrong(format!("{} was answered with {} of {}", id, answer.number, answer.id)),
        Err(error) => unanswered(error),
    }
}

pub(crate) fn unanswered<M>(error: &AskError<M>) -> Outcome {
    match error {
        AskError::NotHandled(error) => not_sent(error),
        AskError::Deadlock { cycle, .. } => Outcome::Deadlock(cycle.clone()),
        AskError::BadReply { .. } => Outcome::Wrong(error.to_string()),
        _ => Outcome::Unclear(error.to_string()),
    }
}

/// The sender of messages.
#[derive(Clone, Copy)]
pub(crate) struct Sender {
    life: Life,
    epoch: u32,
}

/// An address with the path of its Work.
pub(crate) type Contact = (String, WorkAddr<Member>);

/// A message without an answer.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Note {
    id: String,
    contacts: Vec<Contact>,
    parcel: Option<Parcel>,
    /// True if the payload is read in the handler.
    read_now: bool,
    /// True if the handler sends a message to another Work.
    forward: bool,
    /// Time in milliseconds for which the handler blocks its thread.
    block: u64,
    /// True if the handler panics.
    panic: bool,
    filler: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Question {
    id: String,
    number: u64,
    #[serde(default)]
    parcel: Option<Parcel>,
    /// True if the answer has a payload.
    #[serde(default)]
    wants_parcel: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) id: String,
    pub(crate) number: u64,
    pub(crate) parcel: Option<Parcel>,
}

/// A question that is answered with the number of the incarnation.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ping {}

/// Has the Work ask all of these Works whose address it has, by each address that it has.
#[derive(Serialize, Deserialize)]
pub(crate) struct Survey {
    only: Vec<String>,
}

/// A question for the results of the survey.
#[derive(Serialize, Deserialize)]
pub(crate) struct Findings {}

#[derive(Serialize, Deserialize)]
pub(crate) struct Finding {
    pub(crate) to: String,
    /// The way by which the address arrived.
    pub(crate) source: String,
    pub(crate) error: Option<String>,
}

/// Has the Work drop all payloads.
#[derive(Serialize, Deserialize)]
pub(crate) struct Release {}

/// An order for a run.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Task {
    Roam {
        contacts: Vec<Contact>,
    },
    Chore {
        number: u64,
        contacts: Vec<Contact>,
    },
    /// To be a replica of a service. The number tells versions apart.
    Serve {
        number: u64,
        loads: Loads,
        contacts: Vec<Contact>,
    },
}

/// The way in which a version of a service becomes ready.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Loads {
    /// After this many milliseconds.
    After(u64),
    /// It fails.
    Fails,
    /// It never is.
    Never,
}

/// A Work that sends and answers at random, and records all of it.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) epoch: u32,
    /// The number of incarnations according to the published state.
    pub(crate) generation: u64,
    pub(crate) version: u64,
    pub(crate) life: Life,
    /// Addresses in the state, which the next incarnation gets with it.
    contacts: Vec<Contact>,
    kept: Option<Parcel>,
    #[serde(skip)]
    here: Option<Here>,
}

/// Data of one incarnation.
struct Here {
    path: String,
    rng: Rng,
    /// Addresses by path and by the way of their arrival.
    held: BTreeMap<(String, &'static str), WorkAddr<Member>>,
    /// Payloads that are read later.
    parcels: Vec<Parcel>,
    /// Results of the last survey; `None` while it is in progress.
    findings: Rc<RefCell<Option<Vec<Finding>>>>,
    _end: End,
}

/// Records on drop the end of an incarnation that was not asked to end.
struct End(Life);

impl Drop for End {
    fn drop(&mut self) {
        record(Event::Ended { life: self.0, orderly: false });
    }
}

impl Member {
    fn here(&mut self) -> &mut Here {
        self.here.as_mut().expect("an incarnation begins with on_start")
    }

    pub(crate) fn sender(&self) -> Sender {
        Sender { life: self.life, epoch: self.epoch }
    }

    fn keep(&mut self, contacts: Vec<Contact>, source: &'static str) {
        let held = &mut self.here().held;
        for (path, address) in contacts {
            // The first address is kept, to test that it stays valid.
            held.entry((path, source)).or_insert(address);
        }
    }

    /// Panics in this file, whose panics are not printed.
    pub(crate) fn panic_as_asked(&self) -> ! {
        record(Event::Panicking { life: self.life });
        panic!("it was asked to")
    }

    fn publish(&mut self, cx: &mut WorkContext<Self>) {
        self.version += 1;
        record(Event::Published { life: self.life, version: self.version });
        cx.publish(self);
    }

    /// Some Work or service, except for those that only relay.
    fn somebody(&mut self) -> Option<Contact> {
        let is_service = self.here().rng.percent(15);
        self.one_of(|path| match path.starts_with(SERVICES) {
            true => is_service,
            false => !is_service && !is_relay(path),
        })
    }

    fn one_of(&mut self, is_wanted: impl Fn(&str) -> bool) -> Option<Contact> {
        let here = self.here();
        let all: Vec<_> = here.held.iter().filter(|((path, _), _)| is_wanted(path)).collect();
        if all.is_empty() {
            return None;
        }
        let ((path, _), address) = *here.rng.pick(&all);
        Some((path.clone(), address.clone()))
    }

    fn some_contacts(&mut self, count: usize) -> Vec<Contact> {
        (0..count).filter_map(|_| self.somebody()).collect()
    }

    /// Sends a random message, or publishes.
    async fn step(&mut self, cx: &mut WorkContext<Self>) -> Result<(), Stopped> {
        let Some((to, address)) = self.somebody() else { return Ok(()) };
        let (from, life) = (self.sender(), self.life);
        let mut rng = Rng::new(self.here().rng.next());
        match rng.below(1_000) {
            0..180 => {
                let filler = vec![7; rng.below(300) as usize];
                let note = Note { filler, forward: rng.percent(10), ..Note::default() };
                cx.serve(self, tell(from, to, address, note)).await?;
            }
            180..215 => {
                let (before, after) = (rng.below(20), rng.below(3));
                let mixed = async move {
                    for _ in 0..before {
                        try_tell(from, &to, &address, Note::default());
                    }
                    tell_first(from, &to, &address, Note::default()).await;
                    for _ in 0..after {
                        tell(from, to.clone(), address.clone(), Note::default()).await;
                    }
                };
                cx.serve(self, mixed).await?;
            }
            215..250 => {
                let panic = rng.percent(2);
                let all = (0..rng.between(1, 9))
                    .map(|_| ask_batched(from, to.clone(), address.clone(), rng.next(), panic));
                let all: Vec<_> = all.collect();
                cx.serve(self, futures::future::join_all(all)).await?;
            }
            250..330 => {
                for _ in 0..rng.between(2, 100) {
                    try_tell(from, &to, &address, Note::default());
                }
            }
            330..520 => cx.serve(self, ask(from, to, address, rng.next(), None, false)).await?,
            520..570 => {
                let mut all: Vec<std::pin::Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
                for _ in 0..4 {
                    let Some((to, address)) = self.somebody() else { break };
                    all.push(if rng.percent(50) {
                        Box::pin(tell(from, to, address, Note::default()))
                    } else {
                        Box::pin(ask(from, to, address, rng.next(), None, false))
                    });
                }
                cx.serve(self, futures::future::join_all(all)).await?;
            }
            570..650 => self.publish(cx),
            650..690 => cx.serve(self, read_stream(from, to, address, rng)).await?,
            690..720 => {
                let Some((to, address)) = self.one_of(is_relay) else { return Ok(()) };
                let hops: Vec<_> = (0..rng.between(1, 4)).filter_map(|_| self.one_of(is_relay)).collect();
                let beside = rng.percent(20);
                let relay = relay(from, to, address, rng.next(), Kind::Ask, hops, beside);
                cx.serve(self, relay).await?;
            }
            720..790 => {
                let mut contacts = self.some_contacts(3);
                contacts.push((cx.path().to_string(), cx.addr()));
                cx.serve(self, tell(from, to, address, Note { contacts, ..Note::default() })).await?;
            }
            790..850 => {
                let parcel = Parcel::make(life, &mut rng, cx);
                let note = Note { parcel, read_now: rng.percent(50), ..Note::default() };
                cx.serve(self, tell(from, to, address, note)).await?;
            }
            850..890 => {
                let parcel = if rng.percent(50) { Parcel::make(life, &mut rng, cx) } else { None };
                cx.serve(self, ask(from, to, address, rng.next(), parcel, true)).await?;
            }
            890..920 => {
                let there = std::thread::Builder::new().spawn(move || {
                    let sent = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        try_tell_as(Kind::Outside, from, &to, &address, Note::default());
                    }));
                    sent.is_ok()
                });
                if let Ok(there) = there {
                    let _ = there.join();
                }
            }
            920..950 => {
                self.kept = Parcel::make(life, &mut rng, cx);
                self.publish(cx);
            }
            950..960 => {
                let note = Note { block: rng.between(20, 400), ..Note::default() };
                cx.serve(self, tell(from, to, address, note)).await?;
            }
            960..962 => {
                let note = Note { panic: true, ..Note::default() };
                cx.serve(self, tell(from, to, address, note)).await?;
            }
            _ => {
                let parcels: Vec<_> = self.here().parcels.drain(..).collect();
                for parcel in parcels {
                    cx.serve(self, parcel.read(life)).await?;
                }
            }
        }
        Ok(())
    }
}

async fn tell(from: Sender, to: String, address: WorkAddr<Member>, note: Note) {
    let sending = Sending::begin(&from, &to, Kind::Tell);
    let sent = address.tell(Note { id: sending.id.clone(), ..note }).await;
    sending.done(told(sent));
}

fn try_tell(from: Sender, to: &str, address: &WorkAddr<Member>, note: Note) {
    try_tell_as(Kind::TryTell, from, to, address, note);
}

fn try_tell_as(kind: Kind, from: Sender, to: &str, address: &WorkAddr<Member>, note: Note) {
    let sending = Sending::begin(&from, to, kind);
    let note = Note { id: sending.id.clone(), ..note };
    let sent = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| told(address.try_tell(note))));
    sending.done(sent.unwrap_or_else(|_| Outcome::Wrong("`try_tell` panicked".to_owned())));
}

async fn tell_first(from: Sender, to: &str, address: &WorkAddr<Member>, note: Note) {
    let sending = Sending::begin(&from, to, Kind::First);
    let sent = address.tell_first(Note { id: sending.id.clone(), ..note }).await;
    sending.done(told(sent));
}

async fn ask(
    from: Sender,
    to: String,
    address: WorkAddr<Member>,
    number: u64,
    parcel: Option<Parcel>,
    wants_parcel: bool,
) {
    let sending = Sending::begin(&from, &to, Kind::Ask);
    let question = Question { id: sending.id.clone(), number, parcel, wants_parcel };
    let answer = address.ask(question).timeout(ASK).await;
    let outcome = answered(&sending.id, number, answer.as_ref());
    sending.done(outcome);
    if let Ok(Answer { parcel: Some(parcel), .. }) = answer {
        parcel.read(from.life).await;
    }
}

impl Work for Member {
    type Input = Task;

    async fn on_start(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        self.life = unique();
        self.generation += 1;
        let path = cx.path().to_string();
        record(Event::Began {
            life: self.life,
            work: path.clone(),
            epoch: self.epoch,
            generation: self.generation,
        });
        let mut held = BTreeMap::new();
        for (path, address) in self.contacts.clone() {
            held.insert((path, "state"), address);
        }
        self.here = Some(Here {
            path,
            rng: Rng::new(self.life),
            held,
            parcels: Vec::new(),
            findings: Rc::default(),
            _end: End(self.life),
        });
        self.publish(cx);
        Ok(())
    }

    async fn on_stop(&mut self, _: &mut WorkContext<Self>) -> Result<()> {
        record(Event::Ended { life: self.life, orderly: true });
        Ok(())
    }

    async fn run(&mut self, task: Task, cx: &mut WorkContext<Self>) -> Result<()> {
        match task {
            Task::Roam { contacts } => {
                self.keep(contacts.clone(), "input");
                self.contacts = contacts;
                self.publish(cx);
                while !is_quiet() {
                    self.step(cx).await?;
                    let pause = self.here().rng.millis(5, 60);
                    cx.sleep(self, pause).await?;
                }
                let parcels: Vec<_> = self.here().parcels.drain(..).collect();
                for parcel in parcels {
                    cx.serve(self, parcel.read(self.life)).await?;
                }
                cx.serve_forever(self).await?;
            }
            Task::Chore { number, contacts } => {
                record(Event::RunBegan { life: self.life, run: number });
                self.keep(contacts, "input");
                for _ in 0..self.here().rng.between(1, 12) {
                    self.step(cx).await?;
                    let pause = self.here().rng.millis(5, 60);
                    cx.sleep(self, pause).await?;
                }
                self.version += 1;
                record(Event::Published { life: self.life, version: self.version });
                record(Event::RunEnded { life: self.life, run: number });
            }
            Task::Serve { number, loads, contacts } => {
                self.keep(contacts, "input");
                let takes = match loads {
                    Loads::After(millis) => Duration::from_millis(millis),
                    Loads::Fails => Duration::from_millis(50),
                    Loads::Never => Duration::MAX,
                };
                cx.sleep(self, takes).await?;
                ensure!(loads != Loads::Fails, "version {number} does not load");
                record(Event::Ready { life: self.life });
                cx.ready(self);
                cx.serve_forever(self).await?;
            }
        }
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages
            .accept::<Note>()
            .accept::<Question>()
            .accept::<Batched>()
            .accept::<Listing>()
            .accept::<Relay>()
            .accept::<Ping>()
            .accept::<Survey>()
            .accept::<Findings>()
            .accept::<Release>();
    }
}

impl Handle<Note> for Member {
    type Reply = ();

    async fn handle(&mut self, note: Note, _: &mut WorkContext<Self>) {
        let (life, from) = (self.life, self.sender());
        record(Event::Handled { life, id: note.id });
        self.keep(note.contacts, "message");
        if note.forward
            && !is_quiet()
            && let Some((to, address)) = self.somebody()
        {
            try_tell(from, &to, &address, Note::default());
        }
        if note.block > 0 {
            std::thread::sleep(Duration::from_millis(note.block));
        }
        if note.panic {
            self.panic_as_asked();
        }
        if let Some(parcel) = note.parcel {
            if note.read_now {
                parcel.read(life).await;
            } else {
                self.here().parcels.push(parcel);
            }
        }
    }
}

impl Handle<Question> for Member {
    type Reply = Answer;

    async fn handle(&mut self, question: Question, cx: &mut WorkContext<Self>) -> Answer {
        let life = self.life;
        record(Event::Handled { life, id: question.id.clone() });
        if let Some(parcel) = question.parcel {
            parcel.read(life).await;
        }
        let mut rng = Rng::new(question.number);
        let parcel = if question.wants_parcel { Parcel::make(life, &mut rng, cx) } else { None };
        Answer { id: question.id, number: answer_to(question.number), parcel }
    }
}

impl Handle<Ping> for Member {
    type Reply = Life;

    async fn handle(&mut self, _: Ping, _: &mut WorkContext<Self>) -> Life {
        self.life
    }
}

impl Handle<Survey> for Member {
    type Reply = ();

    async fn handle(&mut self, survey: Survey, _: &mut WorkContext<Self>) {
        let here = self.here();
        here.findings = Rc::default();
        let findings = here.findings.clone();
        let others = here.held.iter().filter(|((to, _), _)| *to != here.path && survey.only.contains(to));
        let others: Vec<_> = others.map(|(name, address)| (name.clone(), address.clone())).collect();
        // Runs beside the Work, which has to answer the others meanwhile.
        tokio::task::spawn_local(async move {
            let all = others.into_iter().map(|((to, source), address)| async move {
                let answer = address.ask(Ping {}).timeout(Duration::from_secs(5)).await;
                let error = answer.err().map(|error| error.to_string());
                Finding { to, source: source.to_owned(), error }
            });
            let all = futures::future::join_all(all).await;
            findings.replace(Some(all));
        });
    }
}

impl Handle<Findings> for Member {
    type Reply = Option<Vec<Finding>>;

    async fn handle(&mut self, _: Findings, _: &mut WorkContext<Self>) -> Self::Reply {
        self.here().findings.take()
    }
}

impl Handle<Release> for Member {
    type Reply = ();

    async fn handle(&mut self, _: Release, cx: &mut WorkContext<Self>) {
        self.kept = None;
        self.here().parcels.clear();
        self.publish(cx);
    }
}

/// An order of the conductor to the Flow.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) work: String,
    pub(crate) what: Command,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Command {
    Restart,
    Stop,
    Add { placement: String },
    Remove,
}

/// A Work that takes orders for the Flow.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Director {
    orders: Vec<Order>,
}

impl Work for Director {
    type Input = ();

    async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Order>();
    }
}

impl Handle<Order> for Director {
    type Reply = ();

    async fn handle(&mut self, order: Order, cx: &mut WorkContext<Self>) {
        self.orders.push(order);
        cx.publish(self);
    }
}

/// The Flow of a run.
#[derive(Serialize, Children)]
pub(crate) struct Troupe {
    director: WorkRef<Director>,
    works: BTreeMap<String, WorkRef<Member>>,
    extras: BTreeMap<String, WorkRef<Member>>,
    services: BTreeMap<String, ServiceRef<Member>>,
    #[serde(skip)]
    notes: Notes,
}

/// Data of the Flow beside its Works.
struct Notes {
    epoch: u32,
    roles: HashMap<String, (Role, Duration)>,
    orders_done: usize,
    /// The state that was seen last of each Work.
    seen: HashMap<String, (Life, u64)>,
    stopped: HashMap<String, Instant>,
    /// The last version of each service, and the time of the next one.
    versions: HashMap<String, (u64, Instant)>,
    chores: HashMap<String, u64>,
    /// The number under which the Flow sends messages.
    life: Life,
    rng: Rng,
}

impl Troupe {
    fn new(plan: &Plan, epoch: u32) -> Self {
        let works = plan.works.iter().map(|work| {
            let member = new_member(epoch, &work.placement, work.cpus).mailbox(work.mailbox);
            (work.name.clone(), member)
        });
        let roles = plan.works.iter().map(|work| (work.name.clone(), (work.role, work.rest)));
        let life = unique();
        record(Event::Began { life, work: "flow".to_owned(), epoch, generation: 0 });
        Self {
            director: WorkRef::default(),
            works: works.collect(),
            extras: BTreeMap::new(),
            services: plan.services.iter().map(|one| (one.name.clone(), new_service(epoch, one))).collect(),
            notes: Notes {
                epoch,
                roles: roles.collect(),
                orders_done: 0,
                seen: HashMap::new(),
                stopped: HashMap::new(),
                versions: HashMap::new(),
                chores: HashMap::new(),
                life,
                rng: Rng::new(life),
            },
        }
    }

    /// Deploys new versions of services at random times. Some of them do not become ready.
    fn roll_out(&mut self, contacts: &[Contact], quiet: bool) {
        let Notes { versions, rng, .. } = &mut self.notes;
        for (name, service) in &mut self.services {
            let (last, next) = versions.entry(name.clone()).or_insert_with(|| (0, Instant::now()));
            // In the end something has to serve.
            if Instant::now() < *next || (quiet && service.version().is_some()) {
                continue;
            }
            *next = Instant::now() + rng.millis(200, 4_000);
            *last += 1;
            let loads = match rng.below(100) {
                _ if quiet || *last == 1 => Loads::After(0),
                0..60 => Loads::After(rng.below(400)),
                60..85 => Loads::Fails,
                _ => Loads::Never,
            };
            let contacts = (0..3).map(|_| rng.pick(contacts).clone()).collect();
            service.deploy(Task::Serve { number: *last, loads, contacts });
        }
    }

    fn obey(&mut self, order: &Order) {
        let name = order.work.rsplit('.').next().unwrap_or_default();
        let group = if order.work.starts_with("extras") { &mut self.extras } else { &mut self.works };
        match &order.what {
            Command::Restart => {
                if let Some(work) = group.get(name) {
                    work.restart_now();
                }
            }
            Command::Stop => {
                if let Some(work) = group.get(name) {
                    work.stop();
                }
            }
            Command::Add { placement } => {
                let epoch = self.notes.epoch;
                group.entry(name.to_owned()).or_insert_with(|| new_member(epoch, placement, 0));
            }
            Command::Remove => {
                group.remove(name);
                self.notes.seen.remove(&order.work);
            }
        }
    }
}

fn new_member(epoch: u32, placement: &str, cpus: u32) -> WorkRef<Member> {
    let restart = Restart::on_failure()
        .max(100_000)
        .within(Duration::from_secs(2))
        .backoff(Duration::from_millis(20)..Duration::from_millis(500));
    let work = WorkRef::from(Member { epoch, ..Member::default() })
        .restart(restart)
        .on_error(OnError::Capture)
        .grace(Duration::from_secs(3));
    if placement.is_empty() {
        work.needs(Resources::cpus(cpus))
    } else {
        work.placed(placement.parse::<Placement>().expect("a plan's placements are placements"))
    }
}

fn new_service(epoch: u32, plan: &ServicePlan) -> ServiceRef<Member> {
    let restart = Restart::on_failure().max(u32::MAX).backoff(Duration::from_millis(20)..READY / 6);
    ServiceRef::from(Member { epoch, ..Member::default() })
        .replicas(plan.replicas)
        .max_extra(plan.extra)
        .in_flight(plan.in_flight)
        .overlap(if plan.is_impatient { Overlap::Restart } else { Overlap::Latest })
        .placed(plan.placement.parse::<Placement>().expect("a plan's placements are placements"))
        .ready_within(READY)
        .drain(READY)
        .restart(restart)
        .grace(Duration::from_secs(3))
}

impl Notes {
    fn see(&mut self, path: &str, work: &WorkRef<Member>) {
        let now = (work.life, work.version);
        if work.life != 0 && self.seen.get(path) != Some(&now) {
            self.seen.insert(path.to_owned(), now);
            record(Event::Saw {
                epoch: self.epoch,
                work: path.to_owned(),
                life: work.life,
                generation: work.generation,
                version: work.version,
            });
        }
    }

    /// The remaining time for which a stopped Work rests; `None` when it is to run.
    fn rests(&mut self, path: &str, work: &WorkRef<Member>, rest: Duration) -> Option<Duration> {
        if !work.has_stopped() {
            self.stopped.remove(path);
            return None;
        }
        let since = *self.stopped.entry(path.to_owned()).or_insert_with(Instant::now);
        Some(rest.saturating_sub(since.elapsed())).filter(|left| !left.is_zero())
    }

    fn ask_for_chores(&mut self, path: &str, work: &WorkRef<Member>, contacts: &[Contact], quiet: bool) {
        let next = self.chores.entry(path.to_owned()).or_default();
        let chore = |number: u64| {
            let contacts = (0..3).map(|n| contacts[(number * 7 + n * 5) as usize % contacts.len()].clone());
            Task::Chore { number, contacts: contacts.collect() }
        };
        if quiet && !work.is_running() {
            return;
        }
        loop {
            let run = work.run(chore(*next));
            match run.status().stage {
                Stage::Succeeded => {
                    record(Event::SawRun { epoch: self.epoch, work: path.to_owned(), run: *next });
                    *next += 1;
                    if quiet {
                        return;
                    }
                }
                Stage::Failed => {
                    work.rerun(chore(*next));
                    return;
                }
                _ => break,
            }
        }
        if !quiet {
            work.run(chore(*next + 1));
        }
    }
}

impl Flow for Troupe {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let quiet = is_quiet();
        let orders: Vec<Order> = self.director.orders.iter().skip(self.notes.orders_done).cloned().collect();
        self.notes.orders_done += orders.len();
        for order in &orders {
            self.obey(order);
        }
        let works = self.works.iter().map(|(name, work)| (format!("works.{name}"), work));
        let extras = self.extras.iter().map(|(name, work)| (format!("extras.{name}"), work));
        let all_contacts = |works: &BTreeMap<String, WorkRef<Member>>,
                            services: &BTreeMap<String, ServiceRef<Member>>| {
            let works = works.iter().map(|(name, work)| (format!("works.{name}"), work.addr()));
            let services = services.iter().map(|(name, one)| (format!("{SERVICES}{name}"), one.addr()));
            works.chain(services).collect::<Vec<Contact>>()
        };
        let mut contacts: Option<Vec<Contact>> = None;
        let notes = &mut self.notes;
        for (path, work) in works.chain(extras) {
            // A Work that was added in this reaction has not joined the App yet.
            if work.path().is_none() {
                continue;
            }
            notes.see(&path, work);
            let name = path.rsplit('.').next().unwrap_or_default();
            let (role, rest) = notes.roles.get(name).copied().unwrap_or((Role::Roam, Duration::ZERO));
            if let Some(left) = notes.rests(&path, work, rest) {
                cx.wake_in(left);
                continue;
            }
            // A pending Work may wait for a node without a run.
            if role == Role::Roam && work.is_running() {
                continue;
            }
            let contacts = contacts.get_or_insert_with(|| all_contacts(&self.works, &self.services));
            match role {
                Role::Serve | Role::Relay if work.has_stopped() || work.has_failed() => work.start(),
                Role::Serve | Role::Relay => {}
                Role::Roam => {
                    let task = Task::Roam { contacts: contacts.clone() };
                    if work.has_failed() {
                        work.rerun(task);
                    } else {
                        work.run(task);
                    }
                }
                Role::Chores => notes.ask_for_chores(&path, work, contacts, quiet),
            }
        }
        // Addresses can be sent once all have joined.
        if self.works.values().all(|work| work.path().is_some())
            && self.services.values().all(|service| service.path().is_some())
        {
            let contacts = contacts.unwrap_or_else(|| all_contacts(&self.works, &self.services));
            self.roll_out(&contacts, quiet);
        }
        let notes = &mut self.notes;
        if !quiet && notes.rng.percent(10) {
            let nth = notes.rng.below(self.works.len() as u64) as usize;
            let (name, work) = self.works.iter().nth(nth).expect("the number is below the number of Works");
            let from = Sender { life: notes.life, epoch: notes.epoch };
            try_tell(from, &format!("works.{name}"), &work.addr(), Note::default());
        }
        Ok(())
    }
}
