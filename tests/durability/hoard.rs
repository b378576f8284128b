//! A program whose values of payloads are files of the journal: one Work makes them and waits for nothing, one reads
//! them, and one keeps all of those that it was told are durable.

use std::path::PathBuf;
use std::time::Duration;

use flowright::prelude::*;

use crate::record::{self, What, note};

/// Length of a value: more than a row of the journal takes.
const LENGTH: usize = 70_000;

/// Number of values that the keeper keeps once it is to be modest.
const KEPT: usize = 20;

/// Difference of the contents of the values of the two Works that make some.
const KEEPERS: u64 = 1 << 32;

/// File beside the record, from the existence of which on the keeper keeps few values.
pub(crate) const MODEST: &str = "modest";

fn content(round: u64) -> Vec<u8> {
    let mut bytes = vec![round as u8; LENGTH];
    bytes[..8].copy_from_slice(&round.to_le_bytes());
    bytes
}

async fn is_right(value: &Payload<Vec<u8>>, round: u64) -> bool {
    match value.value().await {
        Ok(value) => *value == content(round),
        Err(error) => {
            log::error!("the value of round {round}: {error}");
            false
        }
    }
}

fn is_modest() -> bool {
    let record = std::env::var_os(record::VARIABLE).map(PathBuf::from);
    record.is_some_and(|record| record.with_file_name(MODEST).exists())
}

/// A Work that makes values without end, and waits for nothing.
#[derive(Default, Serialize, Deserialize)]
struct Maker {
    round: u64,
    value: Option<Payload<Vec<u8>>>,
}

impl Work for Maker {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        note("maker", What::Begin, self.round, cx.attempt());
        if let Some(value) = &self.value
            && !is_right(value, self.round).await
        {
            note("maker", What::Fail, self.round, cx.attempt());
        }
        loop {
            self.round += 1;
            self.value = Some(cx.payload(content(self.round))?.durable());
            cx.publish(self);
            note("maker", What::Step, self.round, cx.attempt());
            cx.sleep(self, Duration::from_millis(5)).await?;
        }
    }
}

/// A Work that keeps values, and notes each that is durable.
#[derive(Default, Serialize, Deserialize)]
struct Keeper {
    round: u64,
    values: Vec<(u64, Payload<Vec<u8>>)>,
}

impl Work for Keeper {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        note("keeper", What::Begin, self.round, cx.attempt());
        for (round, value) in &self.values {
            let what = if is_right(value, *round + KEEPERS).await { What::Step } else { What::Fail };
            note("keeper", what, *round, cx.attempt());
        }
        loop {
            self.round += 1;
            self.values.push((self.round, cx.payload(content(self.round + KEEPERS))?.durable()));
            if is_modest() {
                let surplus = self.values.len().saturating_sub(KEPT);
                self.values.drain(..surplus);
            }
            cx.commit(self).await?;
            note("keeper", What::End, self.round, cx.attempt());
            cx.sleep(self, Duration::from_millis(2)).await?;
        }
    }
}

/// A Work that reads a value in each run.
#[derive(Default, Serialize, Deserialize)]
struct Reader {}

impl Work for Reader {
    type Input = (u64, Payload<Vec<u8>>);

    async fn run(&mut self, (round, value): Self::Input, cx: &mut WorkContext<Self>) -> Result<()> {
        note("reader", What::Begin, round, cx.attempt());
        let what = if is_right(&value, round).await { What::End } else { What::Fail };
        note("reader", what, round, cx.attempt());
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Hoard {
    maker: WorkRef<Maker>,
    keeper: WorkRef<Keeper>,
    reader: WorkRef<Reader>,
    round: u64,
    /// The value that is read.
    next: Option<Payload<Vec<u8>>>,
}

impl Flow for Hoard {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        self.maker.run(());
        self.keeper.run(());
        let is_read = match &self.next {
            Some(next) => self.reader.run((self.round, next.clone())).finished().is_ok(),
            None => true,
        };
        if is_read && self.maker.round > self.round {
            self.round = self.maker.round;
            self.next = self.maker.value.clone();
            let next = self.next.clone().context("each round makes one")?;
            self.reader.run((self.round, next));
        }
        Ok(())
    }
}

pub(crate) fn main() -> ExitCode {
    App::new(|| Hoard {
        maker: WorkRef::new(Maker::default()).placed(Placement::Thread),
        keeper: WorkRef::new(Keeper::default()).placed(Placement::Thread),
        reader: WorkRef::new(Reader::default()).placed(Placement::Pool).remember(100),
        round: 0,
        next: None,
    })
    .main()
}
