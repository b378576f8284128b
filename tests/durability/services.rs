//! Services over the lives of an App.

use std::path::PathBuf;

use flowright::prelude::*;
use flowright::{Placement, Rollout, RolloutStage, ServiceRef};

use crate::editions::{Directory, Shop, command};
use crate::record;

crate::tests![
    service_goes_on_with_its_version_after_a_kill,
    replicas_with_processes_of_their_own_outlive_the_head,
    rollout_under_way_goes_on_after_a_kill,
];

#[derive(Default, Serialize, Deserialize)]
struct Model {
    slope: u64,
    /// Number of runs that have begun, in all lives.
    loads: u64,
    process: u32,
}

impl Work for Model {
    type Input = u64;

    async fn run(&mut self, slope: u64, cx: &mut WorkContext<Self>) -> Result<()> {
        (self.slope, self.process) = (slope, std::process::id());
        self.loads += 1;
        cx.publish(self);
        // A version that begins to serve when there is a file.
        if slope > 100 {
            let record = PathBuf::from(std::env::var_os(record::VARIABLE).expect("the test has set it"));
            while !record.with_file_name(READY).exists() {
                cx.sleep(self, Duration::from_millis(5)).await?;
            }
        }
        cx.ready(self);
        cx.serve_forever(self).await?;
        Ok(())
    }

    fn messages(messages: &mut Messages<Self>) {
        messages.accept::<Predict>();
    }
}

/// The name of the file without which some versions do not become ready.
const READY: &str = "ready";

#[derive(Serialize, Deserialize)]
struct Predict(u64);

impl Handle<Predict> for Model {
    type Reply = u64;

    async fn handle(&mut self, Predict(x): Predict, _: &mut WorkContext<Self>) -> u64 {
        self.slope * x
    }
}

/// A Work that asks the service once in each life, by an address in its recorded input.
#[derive(Default, Serialize, Deserialize)]
struct Client {
    lives: u64,
    last: u64,
}

impl Work for Client {
    type Input = WorkAddr<Model>;

    async fn run(&mut self, server: WorkAddr<Model>, cx: &mut WorkContext<Self>) -> Result<()> {
        self.last = server.ask(Predict(2)).await?;
        self.lives += 1;
        cx.publish(self);
        cx.serve_forever(self).await?;
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Deployment {
    server: ServiceRef<Model>,
    client: WorkRef<Client>,
    version: Option<u64>,
    rollouts: Vec<Rollout>,
    /// True if there is a third version, which waits for a file.
    #[serde(skip)]
    has_third: bool,
}

impl Flow for Deployment {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        self.server.deploy(3);
        if self.server.version().is_some() {
            self.client.run(self.server.addr());
        }
        if self.client.lives > 0 {
            self.server.deploy(5);
        }
        if self.has_third && self.server.version() == Some(2) {
            self.server.deploy(700);
        }
        self.version = self.server.version();
        self.rollouts = self.server.rollouts().cloned().collect();
        Ok(())
    }
}

pub(crate) fn run(program: &str) -> Option<ExitCode> {
    let placement = match program {
        "service" | "service_with_a_third_version" => Placement::Thread,
        "service_of_processes" => Placement::Process,
        _ => return None,
    };
    let has_third = program == "service_with_a_third_version";
    let root = move || {
        let server = ServiceRef::new(Model::default()).replicas(2).placed(placement);
        Deployment { server, client: WorkRef::default(), version: None, rollouts: Vec::new(), has_third }
    };
    Some(App::new(root).main())
}

fn predict(shop: &Shop) -> u64 {
    let address = shop.address();
    let url = format!("http://{address}/api/v1/works/server/messages/Predict");
    let mut answer =
        ureq::post(&url).content_type("application/json").send("2").expect("the service answers");
    assert_eq!(answer.headers()["flowright-version"], "2");
    let answer = answer.body_mut().read_to_string().expect("it is text");
    answer.parse().expect("it is a number")
}

/// The version that served goes on, with replicas that load it again; no rollout is repeated, and a recorded address of the
/// service is good.
fn service_goes_on_with_its_version_after_a_kill() {
    let directory = Directory::new("services");
    let shop = Shop::open("service", &directory);
    let before = shop.state(|state| state["version"] == 2 && state["client"]["lives"] == 1);
    assert_eq!(predict(&shop), 10);
    shop.kill();
    let shop = Shop::open("service", &directory);
    // The address in the input leads to the version that serves now.
    let after = shop.state(|state| state["client"]["lives"] == 2);
    assert_eq!((&after["client"]["last"], &after["version"]), (&10.into(), &2.into()));
    assert_eq!(after["rollouts"], before["rollouts"]);
    assert_eq!(predict(&shop), 10);
    shop.state(|state| {
        let replicas = state["server"]["replicas"].as_object().expect("they are there");
        replicas.len() == 2 && replicas.values().all(|replica| replica["loads"] == 2)
    });
    shop.kill();
    // Reactions of a service see more than what is recorded.
    let (code, said) = command("service", &directory, &["rereact", "--at", "1..", "--json"]);
    assert_eq!(code, Some(0), "{said}");
}

/// Replicas that have processes of their own serve on through the death of the head, and load nothing again.
fn replicas_with_processes_of_their_own_outlive_the_head() {
    let directory = Directory::new("outliving_services");
    let shop = Shop::open("service_of_processes", &directory);
    let before = shop.state(|state| state["version"] == 2 && state["client"]["lives"] == 1);
    assert_eq!(predict(&shop), 10);
    shop.kill();
    let shop = Shop::open("service_of_processes", &directory);
    let after = shop.state(|state| state["client"]["lives"] == 2);
    assert_eq!(predict(&shop), 10);
    assert_eq!((&after["version"], &after["client"]["last"]), (&2.into(), &10.into()));
    let replicas = |state: &serde_json::Value| {
        let replicas = state["server"]["replicas"].as_object().expect("they are there").clone();
        replicas.into_iter().filter(|(name, _)| name.starts_with("v2-")).collect::<Vec<_>>()
    };
    assert_eq!(replicas(&after), replicas(&before));
    shop.close();
}

/// A rollout that was under way goes on; the version before serves meanwhile.
fn rollout_under_way_goes_on_after_a_kill() {
    let directory = Directory::new("rolling_services");
    let starts = |state: &serde_json::Value| {
        let rollouts: Vec<Rollout> =
            serde_json::from_value(state["rollouts"].clone()).expect("they are rollouts");
        rollouts.last().is_some_and(|last| last.version == 3 && last.stage == RolloutStage::Starting)
    };
    let shop = Shop::open("service_with_a_third_version", &directory);
    shop.state(starts);
    assert_eq!(predict(&shop), 10);
    shop.kill();
    let shop = Shop::open("service_with_a_third_version", &directory);
    shop.state(starts);
    assert_eq!(predict(&shop), 10);
    std::fs::write(directory.join(READY), "").expect("the file can be made");
    shop.state(|state| state["version"] == 3);
    shop.close();
}
