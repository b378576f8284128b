//! Works that are found by their paths.

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{FindError, ServiceRef};

use crate::support::wherever_it_runs;

/// A question whose handler finds a Work by its path.
#[derive(Debug, Serialize, Deserialize)]
struct Find(String);

#[derive(Debug, Serialize, Deserialize)]
struct Name;

#[derive(Default, Serialize, Deserialize)]
struct Member {
    /// The error of looking for a sibling in `on_start`.
    early: Option<String>,
    /// True if the guests are to leave.
    sends_away: bool,
}

impl Work for Member {
    type Input = ();

    async fn on_start(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        // All children of a Flow have joined before the first of them starts.
        self.early = cx.find::<Self>("second").await.err().map(|error| error.to_string());
        Ok(())
    }
}

impl Handle<Name> for Member {
    type Reply = String;

    async fn handle(&mut self, _: Name, cx: &mut WorkContext<Self>) -> String {
        cx.path().to_string()
    }
}

impl Handle<Find> for Member {
    type Reply = std::result::Result<String, String>;

    async fn handle(&mut self, Find(path): Find, cx: &mut WorkContext<Self>) -> Self::Reply {
        let found = cx.find::<Self>(&path).await.map_err(|error| error.to_string())?;
        found.ask(Name).await.map_err(|error| error.to_string())
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct SendAway;

impl Handle<SendAway> for Member {
    type Reply = ();

    async fn handle(&mut self, _: SendAway, cx: &mut WorkContext<Self>) {
        self.sends_away = true;
        cx.publish(self);
    }
}

#[derive(Serialize, Children)]
struct Club {
    first: WorkRef<Member>,
    second: WorkRef<Member>,
    guests: Vec<WorkRef<Member>>,
    service: ServiceRef<Member>,
}

impl Flow for Club {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        if self.first.sends_away {
            self.guests.clear();
        }
        Ok(())
    }
}

fn club(placement: Placement) -> TestApp {
    let member = move || WorkRef::from(Member::default()).placed(placement);
    let app = TestApp::start(move || Club {
        first: member(),
        second: member(),
        guests: vec![member()],
        service: ServiceRef::new(Member::default()),
    });
    for path in ["first", "second", "guests.0"] {
        app.wait_for_work(path, |work| work.is_up);
    }
    app
}

/// A Work finds others of its App by path, also before they have started, and so does the program.
#[test]
fn work_is_found_by_its_path() {
    wherever_it_runs(|placement| {
        let app = club(placement);
        let first = app.work::<Member>("first");
        app.block_on(async {
            for path in ["second", "guests.0"] {
                assert_eq!(first.ask(Find(path.to_owned())).await.unwrap(), Ok(path.to_owned()));
                let found = app.control().find::<Member>(path).await.unwrap();
                assert_eq!(found.ask(Name).await.unwrap(), path);
            }
            let service = app.control().find::<Member>("service").await.unwrap();
            assert_eq!(service.path().as_str(), "service");
        });
        let early = app.state().get("first.early").unwrap().decode::<Option<String>>().unwrap();
        assert_eq!(early, None);
    });
}

/// The error tells a path that does not exist from a Flow and from a Work of another type.
#[test]
fn error_says_what_is_at_the_path() {
    #[derive(Default, Serialize, Deserialize)]
    struct Other;
    impl Work for Other {
        type Input = ();
    }
    let app = club(Placement::Pool);
    app.block_on(async {
        let control = app.control();
        let error = control.find::<Member>("frist").await.unwrap_err();
        assert!(matches!(error, FindError::NotFound { similar, .. } if similar == ["first"]));
        let error = control.find::<Member>("").await.unwrap_err();
        let is_root = |flow: &str| flow.ends_with("::Club");
        assert!(matches!(error, FindError::IsFlow { path, flow } if path == "root" && is_root(&flow)));
        for path in ["first", "service"] {
            let error = control.find::<Other>(path).await.unwrap_err();
            let FindError::OtherType { found, wanted, .. } = error else { panic!("{error}") };
            assert!(found.ends_with("::Member") && wanted.ends_with("::Other"), "{found} {wanted}");
        }
    });
    let control = app.control().clone();
    app.stop().result.unwrap();
    let alone = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let error = alone.block_on(control.find::<Member>("first")).unwrap_err();
    assert!(matches!(error, FindError::Unreachable { .. }), "{error}");
}

/// A Work that has left and ended is not found, although there are addresses of it that are sent around.
#[test]
fn work_that_has_left_is_not_found() {
    wherever_it_runs(|placement| {
        let app = club(placement);
        let (first, guest) = (app.work::<Member>("first"), app.work::<Member>("guests.0"));
        app.block_on(async {
            first.ask(SendAway).await.unwrap();
            let mut changes = app.control().changes();
            let error = loop {
                match app.control().find::<Member>("guests.0").await {
                    Ok(_) => changes.changed().await.expect("the App runs"),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, FindError::NotFound { .. }), "{error}");
            serde_json::to_string(&guest).expect("the address can be sent");
            let error = app.control().find::<Member>("guests.0").await.unwrap_err();
            assert!(matches!(error, FindError::NotFound { .. }), "{error}");
            let told = first.ask(Find("guests.0".to_owned())).await.unwrap();
            assert!(told.is_err_and(|told| told.contains("there is no work or service `guests.0`")));
        });
    });
}
