//! Finding a Work by its path.
//!
//! # Guarantees
//! - The head knows the paths of an App; a process that joins it asks the head.
//! - An address that was found is that of a Work, or of a service, of the type that was asked for.

use std::any::type_name;

use super::address::{Directory, WorkAddr};
use super::found::{FindError, Found};
use super::work_type::WorkType;
use super::{Work, WorkContext};
use crate::id::ActorPath;
use crate::printable::one_line;
use crate::runtime::Runtime;

impl Found {
    /// Returns the address of the Work, if it is a `W`.
    ///
    /// # Errors
    /// [`FindError`] if it is not.
    pub(crate) fn addr<W: Work>(self, runtime: &Runtime, path: ActorPath) -> Result<WorkAddr<W>, FindError> {
        let (wanted, text) = (type_name::<W>(), one_line(path.as_str()).into_owned());
        let found = match self {
            Self::Nothing(similar) => return Err(FindError::NotFound { path: text, similar }),
            Self::Flow(flow) => return Err(FindError::IsFlow { path: path.to_string(), flow }),
            Self::Work(found) => found,
        };
        let other_type = |found| FindError::OtherType { path: text.clone(), found, wanted };
        if found != wanted {
            return Err(other_type(found));
        }
        let mailbox = match Directory::of(runtime).mailbox_at(&path, WorkType::of::<W>()) {
            Ok(Some(mailbox)) => mailbox,
            // It has left since.
            Ok(None) => return Err(FindError::NotFound { path: text, similar: Vec::new() }),
            Err(other) => return Err(other_type(other.kind().name().to_owned())),
        };
        match mailbox.into_any().downcast() {
            Ok(mailbox) => Ok(WorkAddr::new(runtime.app(), path, mailbox)),
            // Two types of one name, as they are possible in generated code.
            Err(_) => Err(other_type(found)),
        }
    }
}

impl<W: Work> WorkContext<W> {
    /// Returns the address of the Work, or the service, at `path` of this App, which is the path from the root Flow that
    /// the page and the API show. Asks the head if this Work runs in another process.
    ///
    /// A path exists from the reaction on after which its Flow has the child, and until the child has left it and has
    /// ended. The Work need not have started: its address is good before, and messages fail with
    /// [`SendError::Stopped`](crate::SendError::Stopped) until then.
    ///
    /// An address that is passed as an input or in a message needs no path, and its type is checked by the compiler. Find
    /// by path what is chosen at run time, or is far away in the tree.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use flowright::FindError;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Loss;
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Train {
    ///     has_started: bool,
    /// }
    ///
    /// # impl Work for Train {
    /// #     type Input = ();
    /// #     async fn on_start(&mut self, _: &mut WorkContext<Self>) -> Result<()> {
    /// #         self.has_started = true;
    /// #         Ok(())
    /// #     }
    /// # }
    /// # impl Handle<Loss> for Train {
    /// #     type Reply = f64;
    /// #     async fn handle(&mut self, _: Loss, _: &mut WorkContext<Self>) -> f64 { 0.25 }
    /// # }
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Report {
    ///     loss: f64,
    /// }
    ///
    /// impl Work for Report {
    ///     type Input = ();
    ///
    ///     async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
    ///         let train = cx.find::<Train>("team.train").await?;
    ///         self.loss = train.ask(Loss).await?;
    ///         let error = cx.find::<Train>("team.trian").await.unwrap_err();
    ///         assert!(error.to_string().ends_with("did you mean `team.train`?"));
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Team { train: WorkRef<Train> }
    /// # impl Flow for Team {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
    /// # }
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Root { team: FlowRef<Team>, report: WorkRef<Report> }
    /// # impl Flow for Root {
    /// #     fn react(&mut self, cx: &mut FlowContext) -> Reaction {
    /// #         if !self.team.train.has_started {
    /// #             return Ok(());
    /// #         }
    /// #         assert_eq!(self.report.run(()).finished()?.loss, 0.25);
    /// #         cx.stop("done");
    /// #         Ok(())
    /// #     }
    /// # }
    /// # flowright::testing::TestApp::start(Root::default).wait_for_exit().result.unwrap();
    /// ```
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// [`FindError`] if there is no such Work, if it is of another type, or if the head cannot be asked.
    pub async fn find<F: Work>(&self, path: &str) -> Result<WorkAddr<F>, FindError> {
        let (runtime, path) = (self.runtime(), ActorPath::from(path));
        let found = Directory::of(runtime).look_up(&path).await;
        let Some(found) = found else {
            let why = "the head is out of reach, or the App has ended".to_owned();
            return Err(FindError::Unreachable { path: path.to_string(), why });
        };
        found.addr(runtime, path)
    }
}
