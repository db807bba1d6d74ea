//! Features: a fixed-size vector measured from one conversation.
//!
//! What was not or cannot be measured is `None`, never 0.

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// What was measured of one conversation; units are last in each name.
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        pub struct Features {
            $($(#[$doc])* pub $name: Option<f64>,)+
        }

        impl Features {
            /// The names of the features, in the order of the vector.
            pub const NAMES: &[&str] = &[$(stringify!($name)),+];

            /// The features in the order of [`Self::NAMES`].
            pub fn values(&self) -> impl Iterator<Item = Option<f64>> {
                [$(self.$name),+].into_iter()
            }
        }
    };
}

features! {
    /// First to last packet.
    duration_s,
    /// SYN to SYN-ACK: hop to server and back.
    handshake_server_ms,
    /// SYN-ACK to ACK: hop to client and back.
    handshake_client_ms,
    /// Smallest RTT toward the server.
    rtt_server_min_ms,
    /// Mean RTT toward the server.
    rtt_server_mean_ms,
    /// Largest RTT toward the server.
    rtt_server_max_ms,
    /// Smallest RTT toward the client.
    rtt_client_min_ms,
    /// Mean RTT toward the client.
    rtt_client_mean_ms,
    /// Largest RTT toward the client.
    rtt_client_max_ms,
    /// Smallest think time of the server.
    think_min_ms,
    /// Mean think time of the server.
    think_mean_ms,
    /// Largest think time of the server.
    think_max_ms,
    /// Mean idle time of the client between an answer and its next request.
    idle_mean_ms,
    /// Mean time to the server's first answer with the path in it, where the path is not known.
    think_and_path_mean_ms,
    /// Packets sent by the client.
    client_packets,
    /// Packets sent by the server.
    server_packets,
    /// IP bytes sent by the client.
    client_bytes,
    /// IP bytes sent by the server.
    server_bytes,
    /// Share of the client's packets that were retransmitted past the hop (TCP).
    client_retransmitted_ratio,
    /// Share of the server's packets that were retransmitted past the hop (TCP).
    server_retransmitted_ratio,
    /// Share of the client's packets that came out of sequence (TCP).
    client_out_of_sequence_ratio,
    /// Share of the server's packets that came out of sequence (TCP).
    server_out_of_sequence_ratio,
    /// Share of the client's packets that were copies of the one before (TCP).
    client_duplicate_ratio,
    /// Share of the server's packets that were copies of the one before (TCP).
    server_duplicate_ratio,
    /// How often the client's window fell to zero (TCP).
    client_zero_window_count,
    /// How often the server's window fell to zero (TCP).
    server_zero_window_count,
    /// RST segments of the client (TCP).
    client_reset_count,
    /// RST segments of the server (TCP).
    server_reset_count,
    /// Share of the client's packets marked "congestion experienced".
    client_ecn_marked_ratio,
    /// Share of the server's packets marked "congestion experienced".
    server_ecn_marked_ratio,
    /// ICMP errors that quoted either side.
    icmp_error_count,
    /// MSS option of the client (TCP).
    client_mss_bytes,
    /// MSS option of the server (TCP).
    server_mss_bytes,
    /// How far the TTL of the client's packets varied.
    client_ttl_range,
    /// How far the TTL of the server's packets varied.
    server_ttl_range,
}
