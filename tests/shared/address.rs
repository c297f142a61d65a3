//! Addresses for programs that are told where to listen.

use tokio::net::TcpSocket;

/// An address of this test alone: bound, so that nobody is given it, and not listened on, so that the driver can.
pub(crate) fn reserved() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}
