//! Starting the server, and an App with it.

use std::net::{SocketAddr, TcpListener};

use actix_web::{App as WebApp, HttpServer, web};

use super::routes;
use crate::app::{App, AppError, AppHandle, Control, Launched};

impl App {
    /// Runs the App on a thread of its own, inside any program that has a tokio runtime. With [`App::serve`] it
    /// has a server as well.
    ///
    /// # Errors
    /// [`AppError`] when the tree is not in order or the server cannot listen; nothing has run then.
    pub async fn spawn(self) -> Result<AppHandle, AppError> {
        let address =
            self.serve.then(|| (self.config.host_or_default().to_owned(), self.config.port_or_default()));
        let launched = self.launch().await?;
        let address = match address {
            Some((host, port)) => Some(start(&launched, listen(&host, port)?).await?),
            None => None,
        };
        Ok(launched.begin(address))
    }
}

fn listen(host: &str, port: u16) -> Result<TcpListener, AppError> {
    let address = format!("{host}:{port}");
    TcpListener::bind((host, port)).map_err(|source| AppError::Listen { address, source })
}

/// Serves an App on `listener` for as long as the App lives.
pub(crate) async fn start(launched: &Launched, listener: TcpListener) -> Result<SocketAddr, AppError> {
    let control: Control = launched.control.clone();
    let failed = |source| AppError::Listen { address: "its socket".to_owned(), source };
    let address = listener.local_addr().map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let hosts = routes::Hosts::of(address);
    // A thread of its own: the App's thread belongs to its Flows.
    let (ready, started) = tokio::sync::oneshot::channel();
    let serve = move || {
        let system = actix_rt::System::new();
        system.block_on(async move {
            let mut over = control.changes();
            let server = HttpServer::new(move || {
                WebApp::new()
                    .app_data(web::Data::new(control.clone()))
                    .app_data(web::Data::new(hosts.clone()))
                    .configure(routes::configure)
            })
            .workers(1)
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
            while over.changed().await.is_ok() {}
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
