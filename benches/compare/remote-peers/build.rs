//! Generates the service of the gRPC peer without `protoc`, which two methods do not justify.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let method = |name: &str, route: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type("super::super::Ping")
            .output_type("super::super::Ping")
            .codec_path("tonic_prost::ProstCodec")
    };
    let service = Service::builder()
        .name("Echo")
        .package("bench")
        .method(method("ask", "Ask").build())
        .method(method("tell", "Tell").client_streaming().build())
        .build();
    Builder::new().compile(&[service]);
}
