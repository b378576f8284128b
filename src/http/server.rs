//! Starting the server, and an App together with it.

use std::any::Any;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix_rt::net::TcpStream;
use actix_web::middleware::from_fn;
use actix_web::{App as WebApp, HttpServer, web};

use super::events::{self, Hub};
use super::guard::{Guard, guard};
use super::model::About;
use super::openapi::OpenApiDocument;
use super::pieces::{OnTheWay, in_pieces};
use super::{Instance, queries, routes};
use crate::app::{App, AppError, AppHandle, Config, Control, Launched, short_name};
use crate::descriptors;
use crate::fence;
use crate::program::version_or_build;
use crate::runtime;

/// The maximum number of open connections; further ones wait in the listen queue.
const CONNECTIONS: usize = 4096;

/// The time within which the head of a request must arrive.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// The time after which a connection is reset whose client acknowledges none of the bytes sent to it.
const TAKE_WITHIN: Duration = Duration::from_secs(30);

/// The time after which an idle connection is closed.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A closure that mounts users' own services.
type Mount = Arc<dyn Fn(&mut web::ServiceConfig) + Send + Sync>;

impl App {
    /// Runs the App on a thread of its own, inside any program that has a tokio runtime. After [`App::serve`] it is
    /// served over HTTP as well.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, no Flow reacts and no Work runs.
    ///
    /// # Errors
    /// [`AppError`] when the tree is invalid or the server cannot listen. No code of the App has run in that case.
    pub async fn spawn(mut self) -> Result<AppHandle, AppError> {
        let Some(options) = self.serve.then(|| Options::of(&mut self)) else {
            return Ok(self.launch().await?.begin(None));
        };
        let (host, port) = (options.config.host_or_default().to_owned(), options.config.port_or_default());
        let launched = self.launch().await?;
        let address = start(&launched, listen(&host, port)?, options).await?;
        Ok(launched.begin(Some(address)))
    }

    /// Mounts your own services beside the API, on the same server and behind the same checks of hosts, origins and
    /// tokens. Handlers get the [`Control`] as `web::Data<Control>`, to read the state and to ask Works. May be called
    /// more than once. Paths of the API cannot be overridden. Each thread of the server calls `mount`.
    ///
    /// ```
    /// use actix_web::{HttpResponse, web};
    /// use flowright::Control;
    /// use flowright::prelude::*;
    ///
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Hello;
    /// # impl Flow for Hello {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
    /// # }
    /// async fn version(control: web::Data<Control>) -> HttpResponse {
    ///     HttpResponse::Ok().body(control.changes().borrow().to_string())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let app = App::new(Hello::default)
    ///     .routes(|config| {
    ///         config.route("/my/version", web::get().to(version));
    ///     })
    ///     .serve("127.0.0.1:0".parse()?);
    /// let app = app.spawn().await?;
    /// # app.stop().await.result?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn routes(mut self, mount: impl Fn(&mut web::ServiceConfig) + Send + Sync + 'static) -> Self {
        let mount: Mount = Arc::new(mount);
        self.extensions.push(Box::new(mount));
        self
    }
}

/// The HTTP settings of an App and its mounted services.
pub(crate) struct Options {
    config: Config,
    mounts: Vec<Mount>,
}

impl Options {
    pub(crate) fn of(app: &mut App) -> Self {
        let extensions = std::mem::take(&mut app.extensions);
        let mounts = extensions.into_iter().filter_map(|extension| extension.downcast::<Mount>().ok());
        Self { config: app.config.clone(), mounts: mounts.map(|mount| *mount).collect() }
    }
}

fn listen(host: &str, port: u16) -> Result<TcpListener, AppError> {
    let address = format!("{host}:{port}");
    TcpListener::bind((host, port)).map_err(|source| AppError::Listen { address, source })
}

/// Sets `TCP_USER_TIMEOUT`, so that the kernel resets a connection whose client reads nothing. The server itself has no
/// write timeout.
#[cfg(target_os = "linux")]
fn end_when_nothing_is_taken(connection: &dyn Any) {
    if let Some(connection) = connection.downcast_ref::<TcpStream>() {
        let limit = u32::try_from(TAKE_WITHIN.as_millis()).unwrap_or(u32::MAX);
        if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(connection, limit) {
            log::debug!(
                "cannot set a write timeout on a connection; a client that reads nothing keeps it open: {error}"
            );
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn end_when_nothing_is_taken(_: &dyn Any) {}

/// Mounts users' services. A panic in the closure is logged.
fn add_routes(mount: &Mount, config: &mut web::ServiceConfig) {
    if let Err(panic) = fence::call(|| mount(config)) {
        log::error!(
            "a closure given to `App::routes` panicked, so that some of its routes may be missing: {panic}"
        );
    }
}

/// Serves an App on `listener` until the App ends. Returns the local address once the server accepts connections.
pub(crate) async fn start(
    launched: &Launched,
    listener: TcpListener,
    options: Options,
) -> Result<SocketAddr, AppError> {
    let control: Control = launched.control.clone();
    let failed = |source| AppError::Listen { address: "its socket".to_owned(), source };
    let address = listener.local_addr().map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let who = web::Data::new(Guard::new(address, &options.config)?);
    let started = SystemTime::now();
    let about = About {
        name: short_name(launched.name),
        program: launched.name,
        version: version_or_build(launched.version.as_deref()),
        started,
    };
    let instance = web::Data::new(Instance(crate::id::unique()));
    let document = web::Data::new(OpenApiDocument::new());
    let written = web::Data::new(queries::Written::default());
    let on_the_way = web::Data::new(OnTheWay::default());
    let hub = Arc::new(Hub::new());
    let mounts = options.mounts;
    // A thread of its own, since the App's thread belongs to its Flows.
    let (ready, started) = tokio::sync::oneshot::channel();
    let serve = move || {
        runtime::belong(control.runtime().clone());
        let system = actix_rt::System::new();
        system.block_on(async move {
            let ended = control.clone();
            let server = HttpServer::new(move || {
                // Runs on the thread that serves the clients, which spares a wake-up per event.
                runtime::belong(control.runtime().clone());
                actix_rt::spawn(events::watch(control.clone(), about.clone(), hub.clone()));
                WebApp::new()
                    .app_data(web::Data::new(control.clone()))
                    .app_data(who.clone())
                    .app_data(web::Data::new(about.clone()))
                    .app_data(instance.clone())
                    .app_data(document.clone())
                    .app_data(written.clone())
                    .app_data(web::Data::new(hub.clone()))
                    .app_data(on_the_way.clone())
                    .wrap(from_fn(in_pieces))
                    .wrap(from_fn(guard))
                    .configure(routes::configure)
                    .configure(|config| mounts.iter().for_each(|mount| add_routes(mount, config)))
                    .default_service(web::to(queries::not_found))
            })
            .on_connect(|connection, _| end_when_nothing_is_taken(connection))
            .workers(1)
            .max_connections(descriptors::share(CONNECTIONS, 2))
            .client_request_timeout(HEAD_WITHIN)
            .client_disconnect_timeout(Duration::from_secs(1))
            .keep_alive(KEEP_ALIVE)
            // A client that has closed its side gets no answer any more: the request is dropped, and with it the
            // question that waits in a mailbox.
            .h1_allow_half_closed(false)
            .disable_signals()
            .shutdown_timeout(0)
            .listen(listener);
            let server = match server {
                Ok(server) => server.run(),
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            let handle = server.handle();
            let _ = ready.send(Ok(()));
            actix_rt::spawn(server);
            ended.ended().await;
            handle.stop(false).await;
        });
    };
    std::thread::Builder::new().name("flowright-http".to_owned()).spawn(serve).map_err(AppError::Thread)?;
    match started.await {
        Ok(Ok(())) => Ok(address),
        Ok(Err(source)) => Err(failed(source)),
        Err(_) => Err(AppError::Internal("the server did not start".to_owned())),
    }
}
