//! Chunks kept from clients of HTTP/1.0. For an endpoint that speaks HTTP/2 the framework decides on them after it has shown the answer's head to the
//! gate, and shows it to nobody but its modules afterwards.

use std::any::Any;

use async_trait::async_trait;
use http::header::TRANSFER_ENCODING;
use pingora::http::ResponseHeader;
use pingora::modules::http::{HttpModule, HttpModuleBuilder, HttpModules, Module};
use pingora::proxy::Session;

struct NoChunks;

#[async_trait]
impl HttpModule for NoChunks {
    async fn response_header_filter(&mut self, response: &mut ResponseHeader, _end: bool) -> pingora::Result<()> {
        response.remove_header(&TRANSFER_ENCODING);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl HttpModuleBuilder for NoChunks {
    fn init(&self) -> Module {
        Box::new(Self)
    }
}

/// Has the answer of this session end with the connection where it has no length.
pub(super) fn refuse_chunks(session: &mut Session) {
    session.set_keepalive(None);
    let mut modules = HttpModules::new();
    modules.add_module(Box::new(NoChunks));
    // A session has modules of its own, and the gate none.
    session.downstream_modules_ctx = modules.build_ctx();
}
