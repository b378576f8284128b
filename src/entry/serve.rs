//! The HTTP server of an App that is a program.

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::app::{App, AppError, Launched};
use crate::http;

/// Launches an App and serves it over HTTP, at the address of its configuration. Returns it with the local address and
/// the URL of its page.
pub(crate) async fn serve(mut app: App) -> Result<(Launched, SocketAddr, String), AppError> {
    let (host, port) = (app.config.host_or_default().to_owned(), app.config.port_or_default());
    let options = http::Options::of(&mut app);
    let launched = app.launch().await?;
    let address = http::start(&launched, listen(&host, port)?, options).await?;
    // A browser cannot connect to the unspecified address.
    let shown = match address.ip() {
        ip if ip.is_unspecified() => format!("127.0.0.1:{}", address.port()),
        _ => address.to_string(),
    };
    let url = format!("http://{shown}/view");
    log::info!("Your app has started. View it in your browser: {url}");
    Ok((launched, address, url))
}

/// Listens on the requested port, or on a free one if it is taken.
fn listen(host: &str, port: u16) -> Result<TcpListener, AppError> {
    let failed = |source| AppError::Listen { address: format!("{host}:{port}"), source };
    match TcpListener::bind((host, port)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let listener = TcpListener::bind((host, 0)).map_err(failed)?;
            let free = listener.local_addr().map_err(failed)?.port();
            log::warn!("port {port} of {host} is taken by another program; using {free} instead");
            Ok(listener)
        }
        bound => bound.map_err(failed),
    }
}
