//! Apps without a Flow: their Works are spawned one by one.

use std::future::Future;
use std::sync::Arc;

use thiserror::Error;

use super::control::Control;
use super::error::AppError;
use super::launch::{App, AppHandle};
#[cfg(feature = "remote")]
use crate::flow::Kinds;
use crate::flow::{NotSpawned, Spawner, Spawning, System, WorkRef};
use crate::state::StateError;
use crate::work::{Work, WorkAddr};

/// The error of [`Control::spawn`] and [`Control::remove`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The App has a root Flow, which decides on its children.
    #[error(
        "only an App that is made by `App::empty` spawns Works; this one has a root Flow: give it a field or a map for `{name}`"
    )]
    HasRoot {
        /// The given name.
        name: String,
    },
    /// The name cannot be part of a path.
    #[error("{name:?} cannot be the name of a Work: a name must not be empty or have a `.` in it")]
    BadName {
        /// The given name.
        name: String,
    },
    /// The App has a Work of this name.
    #[error("the App has a Work `{name}` already")]
    NameTaken {
        /// The given name.
        name: String,
    },
    /// The App has no Work of this name.
    #[error("the App has no Work `{name}`")]
    Unknown {
        /// The given name.
        name: String,
    },
    /// The initial state cannot be serialised, or is too large.
    #[error("the initial state of work `{name}` cannot be used")]
    State {
        /// The given name.
        name: String,
        /// The error of the state.
        #[source]
        source: StateError,
    },
    /// The App has ended, or its driver does not answer.
    #[error(transparent)]
    App(#[from] AppError),
}

impl App {
    /// Creates an App that has no Flow and no Works until [`AppHandle::spawn`] or [`Control::spawn`] adds them: actors for a
    /// program that decides by itself what runs. They are supervised, placed and shown like the children of a Flow, whose
    /// runs and journal this App has not.
    ///
    /// ```
    /// use flowright::prelude::*;
    ///
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Counter {
    ///     count: u64,
    /// }
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Add(u64);
    ///
    /// impl Work for Counter {
    ///     type Input = ();
    /// }
    ///
    /// impl Handle<Add> for Counter {
    ///     type Reply = u64;
    ///
    ///     async fn handle(&mut self, Add(amount): Add, _cx: &mut WorkContext<Self>) -> u64 {
    ///         self.count += amount;
    ///         self.count
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let system = App::empty().spawn().await?;
    /// let counter = system.spawn("counter", Counter::default()).await?;
    /// assert_eq!(counter.ask(Add(2)).await?, 2);
    /// system.stop().await.result?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn empty() -> Self {
        let spawner = Arc::new(Spawner::default());
        let of_root = spawner.clone();
        let mut app = Self::new(move || System::new(of_root));
        app.spawner = Some(spawner);
        app
    }

    /// Lets processes and nodes host Works of type `W`, in an App that is made by [`App::empty`]: they run the same program,
    /// but do not know by its root which Works there may be. Works in the process of the App do not need it.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Counter { count: u64 }
    /// # impl Work for Counter { type Input = (); }
    /// let app = App::empty().hosts::<Counter>();
    /// ```
    #[cfg(feature = "remote")]
    pub fn hosts<W: Work>(mut self) -> Self {
        self.hosted.push(Kinds::field::<WorkRef<W>>);
        self
    }
}

impl AppHandle {
    /// Adds a Work to an App that is made by [`App::empty`], as [`Control::spawn`] does.
    ///
    /// # Cancel safety
    /// As that of [`Control::spawn`].
    ///
    /// # Errors
    /// As those of [`Control::spawn`].
    pub fn spawn<W: Work>(
        &self,
        name: impl Into<String>,
        work: impl Into<WorkRef<W>>,
    ) -> impl Future<Output = Result<WorkAddr<W>, SpawnError>> {
        self.control().spawn(name, work)
    }
}

impl Control {
    /// Adds a Work to an App that is made by [`App::empty`], and returns its address. It starts at once and handles messages.
    /// Give a [`WorkRef`] with settings for another placement, a restart policy, or a failure that does not end the App:
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Counter { count: u64 }
    /// # impl Work for Counter { type Input = (); }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let system = App::empty().spawn().await?;
    /// let counter = WorkRef::new(Counter::default())
    ///     .placed(Placement::Pool)
    ///     .restart(Restart::on_failure().max(3))
    ///     .on_error(OnError::Capture);
    /// let counter = system.control().spawn("counter", counter).await?;
    /// assert_eq!(counter.path().as_str(), "counter");
    /// # system.stop().await.result?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, the Work may or may not be added.
    ///
    /// # Errors
    /// [`SpawnError::HasRoot`] in an App with a Flow, [`SpawnError::BadName`], [`SpawnError::NameTaken`],
    /// [`SpawnError::State`] when the initial state cannot be serialised and read back or is too large, and [`SpawnError::App`] when the
    /// App has ended. The Work is dropped then.
    pub fn spawn<W: Work>(
        &self,
        name: impl Into<String>,
        work: impl Into<WorkRef<W>>,
    ) -> impl Future<Output = Result<WorkAddr<W>, SpawnError>> {
        let name = name.into();
        // At once: neither a Work nor its `WorkRef` need be `Send`.
        let spawning = Spawning::new(&work.into());
        async move {
            let spawner = self.spawner(&name)?;
            if name.is_empty() || name.contains('.') {
                return Err(SpawnError::BadName { name });
            }
            let limit = self.call(|driver| driver.state_limit()).await?;
            let checked = spawning.and_then(|spawning| spawning.check(limit).map(|()| spawning));
            let spawned = match checked {
                Ok(spawning) => spawner.spawn::<W>(name.clone(), spawning).await,
                Err(source) => Err(NotSpawned::State(source)),
            };
            match spawned {
                // The Work joins in the turn of the driver in which the request was carried out, which is over.
                Ok(()) => self.work(&name).await?.ok_or(SpawnError::App(AppError::Ended)),
                Err(NotSpawned::NameTaken) => Err(SpawnError::NameTaken { name }),
                Err(NotSpawned::State(source)) => Err(SpawnError::State { name, source }),
                Err(NotSpawned::Ended) => Err(AppError::Ended.into()),
            }
        }
    }

    /// Removes a Work from an App that is made by [`App::empty`]. It is stopped in good order, as one that a Flow has
    /// dropped; another of its name may be spawned at once.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, the Work may or may not be removed.
    ///
    /// # Errors
    /// [`SpawnError::HasRoot`] in an App with a Flow, [`SpawnError::Unknown`] when there is no such Work, and
    /// [`SpawnError::App`] when the App has ended.
    pub async fn remove(&self, name: impl Into<String>) -> Result<(), SpawnError> {
        let name = name.into();
        match self.spawner(&name)?.remove(name.clone()).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(SpawnError::Unknown { name }),
            Err(_) => Err(AppError::Ended.into()),
        }
    }

    fn spawner(&self, name: &str) -> Result<Arc<Spawner>, SpawnError> {
        self.runtime().part().ok_or_else(|| SpawnError::HasRoot { name: name.to_owned() })
    }
}
