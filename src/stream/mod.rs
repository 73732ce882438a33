//! The websocket stream: committed events, in order, to bounded sessions.
