//! Values of payloads that survive the process: an App that is killed while its states, inputs, steps and fields refer to
//! small values, to large ones that were made durable, and to large ones that were not.

use std::path::Path;
use std::time::{Duration, Instant};

use flowright::PayloadError;
use flowright::prelude::*;

use crate::editions::{Directory, start};
use crate::process::LIMIT;
use crate::record::{self, Line, What, note};

crate::tests![recorded_values_outlive_kills];

/// Number of kills.
const KILLS: u64 = 12;

/// Length of a value that is recorded in any case, and of one that is recorded on request.
const SMALL: usize = 60_000;
const LARGE: usize = 70_000;

/// Difference of the contents of values that are recorded and of those that are not.
const PLAIN: u64 = 1 << 32;

/// Most files that there may be: those of the two last states of each of two Works, and those that are being written or
/// removed.
const MOST_FILES: usize = 8;

/// Returns the content of a value.
fn content(round: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![round as u8; length];
    bytes[..8].copy_from_slice(&round.to_le_bytes());
    bytes
}

/// Notes whether a value can be read and is the right one.
async fn check(name: &str, payload: Option<&Payload<Vec<u8>>>, round: u64, length: usize) {
    let is_right = match payload {
        Some(payload) => match payload.value().await {
            Ok(value) => *value == content(round, length),
            Err(error) => {
                log::error!("{name}: {error}");
                false
            }
        },
        None => false,
    };
    note(name, if is_right { What::Step } else { What::Fail }, round, 1);
}

/// A Work without end whose state refers to values that it makes.
#[derive(Default, Serialize, Deserialize)]
struct Keeper {
    round: u64,
    small: Option<Payload<Vec<u8>>>,
    durable: Option<Payload<Vec<u8>>>,
    plain: Option<Payload<Vec<u8>>>,
}

impl Work for Keeper {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        let path = cx.path().to_string();
        note(&path, What::Begin, self.round, cx.attempt());
        if self.round > 0 {
            check(&format!("{path}.small"), self.small.as_ref(), self.round, SMALL).await;
            check(&format!("{path}.durable"), self.durable.as_ref(), self.round, LARGE).await;
            let plain = self.plain.as_ref().context("the state refers to it")?;
            let is_lost = matches!(plain.value().await, Err(PayloadError::Lost { .. }));
            note(&format!("{path}.plain"), if is_lost { What::Step } else { What::Fail }, self.round, 1);
        }
        loop {
            self.round += 1;
            self.small = Some(cx.payload(content(self.round, SMALL))?);
            self.durable = Some(cx.payload(content(self.round, LARGE))?.durable());
            // Its content differs from that of the other: a value with the same content would be recorded.
            self.plain = Some(cx.payload(content(self.round + PLAIN, LARGE))?);
            cx.commit(self).await?;
            note(&path, What::End, self.round, cx.attempt());
            cx.sleep(self, Duration::from_millis(2)).await?;
        }
    }
}

/// A Work whose inputs and steps refer to values.
#[derive(Default, Serialize, Deserialize)]
struct Reader {}

impl Work for Reader {
    type Input = (u64, Payload<Vec<u8>>);

    async fn run(&mut self, (round, input): Self::Input, cx: &mut WorkContext<Self>) -> Result<()> {
        check("input", Some(&input), round, SMALL).await;
        let made = cx.payload(content(round + 1, SMALL))?;
        let made = cx.step("make", &round, async move { Ok(made) }).await?;
        for _ in 0..3 {
            check("step", Some(&made), round + 1, SMALL).await;
            cx.sleep(self, Duration::from_millis(4)).await?;
        }
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Vault {
    keeper: WorkRef<Keeper>,
    apart: WorkRef<Keeper>,
    reader: WorkRef<Reader>,
    round: u64,
    /// The value that is read next, which the state of the keeper may not refer to any more.
    next: Option<Payload<Vec<u8>>>,
}

impl Flow for Vault {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        self.keeper.run(());
        self.apart.run(());
        let is_read = self
            .next
            .as_ref()
            .is_none_or(|next| self.reader.run((self.round, next.clone())).finished().is_ok());
        if is_read && self.keeper.round > self.round {
            self.round = self.keeper.round;
            self.next = self.keeper.small.clone();
            let next = self.next.clone().context("each round makes one")?;
            self.reader.run((self.round, next));
        }
        Ok(())
    }
}

pub(crate) fn main() -> ExitCode {
    App::new(|| Vault {
        keeper: WorkRef::new(Keeper::default()).placed(Placement::Thread),
        apart: WorkRef::new(Keeper::default()).placed(Placement::Process),
        reader: WorkRef::new(Reader::default()).placed(Placement::Pool),
        round: 0,
        next: None,
    })
    .main()
}

/// After each start, references to small values and to durable ones read as what was put into them, in states (also of
/// Works in other processes), inputs, steps and fields of Flows; those to others say that their value is lost. Values
/// that nothing refers to any more leave the disk.
fn recorded_values_outlive_kills() {
    let directory = Directory::new("values");
    let record = directory.join("record");
    for life in 0..KILLS {
        let before = record::read(&record).len();
        let app = start("vault", &directory);
        let deadline = Instant::now() + LIMIT;
        // Moments that differ from life to life.
        while record::read(&record).len() < before + 40 + (life as usize * 7) % 30 {
            assert!(Instant::now() < deadline, "the App makes no progress");
            std::thread::sleep(Duration::from_millis(1));
        }
        app.signal("KILL");
        let (_, lines) = app.end();
        assert_eq!(lines.iter().any(|line| line.contains("resumed at position")), life > 0, "{lines:#?}");
        let files = files(&directory.join("journal/payloads"));
        assert!((1..=MOST_FILES).contains(&files), "{files} files after life {life}");
    }
    let record = record::read(&record);
    let wrong: Vec<&Line> = record.iter().filter(|line| line.what == What::Fail).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for name in ["keeper", "apart"] {
        for kind in ["small", "durable", "plain"] {
            let path = format!("{name}.{kind}");
            let checked = record.iter().filter(|line| line.path == path).count() as u64;
            // A process of its own goes on without a head, so that its Work reads its state again only where it could not.
            assert!(checked >= KILLS / 2 || name == "apart", "{path} was checked {checked} times");
        }
        // What was committed is not lost.
        let mut committed = 0;
        for line in record.iter().filter(|line| line.path == name) {
            assert!(line.what != What::Begin || line.input >= committed, "{line:?} after {committed}");
            committed = line.input;
        }
    }
    assert!(["input", "step"].iter().all(|path| record.iter().any(|line| line.path == *path)));
}

fn files(directory: &Path) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}
