//! The actor core: the parts that exist without any feature of Flowright. Also run with `--no-default-features`.

use flowright::prelude::*;
use flowright::testing::TestApp;

/// A Work that keeps a sum, fails once, and answers messages.
#[derive(Default, Serialize, Deserialize)]
struct Adder {
    sum: u64,
    kept: Option<Payload<Vec<u64>>>,
}

impl Work for Adder {
    type Input = u64;

    async fn run(&mut self, amount: u64, cx: &mut WorkContext<Self>) -> Result<()> {
        if amount == 13 && self.kept.is_none() {
            self.kept = Some(cx.payload(vec![amount])?);
            cx.publish(self);
            bail!("13 fails at the first attempt");
        }
        self.sum += amount;
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Sum;

impl Handle<Sum> for Adder {
    type Reply = u64;

    async fn handle(&mut self, _: Sum, _cx: &mut WorkContext<Self>) -> u64 {
        self.sum
    }
}

/// A Work that asks another Work, and reads its payload.
#[derive(Default, Serialize, Deserialize)]
struct Reader {
    seen: u64,
}

impl Work for Reader {
    type Input = (WorkAddr<Adder>, Payload<Vec<u64>>);

    async fn run(&mut self, (adder, payload): Self::Input, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.seen = adder.ask(Sum).await? + payload.value().await?[0];
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Root {
    adder: WorkRef<Adder>,
    reader: WorkRef<Reader>,
}

impl Default for Root {
    fn default() -> Self {
        let adder = WorkRef::new(Adder::default()).restart(Restart::on_failure().max(1));
        Self { adder, reader: WorkRef::new(Reader::default()).placed(Placement::Pool) }
    }
}

impl Flow for Root {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.adder.run(13).finished()?;
        let Some(kept) = self.adder.run(29).finished()?.kept.clone() else { return Ok(()) };
        let reader = self.reader.run((self.adder.addr(), kept)).finished()?;
        if reader.seen > 0 {
            cx.stop("all was read");
        }
        Ok(())
    }
}

/// Works on threads and in the pool run, fail, restart, answer, and pass payloads to each other.
#[test]
fn core_app_runs_to_its_end() {
    let app = TestApp::start(Root::default);
    app.wait_for_state("reader.seen", |seen: &u64| *seen == 13 + 29 + 13);
    app.wait_for_exit().result.unwrap();
}

#[cfg(not(feature = "remote"))]
#[derive(Serialize, Children)]
struct Elsewhere {
    adder: WorkRef<Adder>,
}

#[cfg(not(feature = "remote"))]
impl Flow for Elsewhere {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.adder.run(1);
        Ok(())
    }
}

/// A placement that needs a feature which is off names that feature.
#[cfg(not(feature = "remote"))]
#[test]
fn placement_without_its_feature_names_the_feature() {
    for placement in [Placement::Process, "gpu-1".parse().unwrap()] {
        let make = move || Elsewhere { adder: WorkRef::new(Adder::default()).placed(placement) };
        let error = TestApp::start(make).wait_for_exit().result.unwrap_err().to_string();
        assert!(error.contains("feature `remote`"), "{placement}: {error}");
    }
}
