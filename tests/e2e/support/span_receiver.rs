//! A receiver of traces that decodes the published messages of OpenTelemetry.

use serde_json::Value;

use super::eventually::eventually_or;
use super::program::Program;

pub struct SpanReceiver {
    program: Program,
    pub port: u64,
}

impl SpanReceiver {
    pub async fn start() -> Self {
        Self::start_at(0).await
    }

    /// Starts a receiver at this port.
    pub async fn start_at(port: u64) -> Self {
        let script = "tests/e2e/clients/python/span_receiver.py";
        let program = Program::python(&[script, &port.to_string()]).await;
        let first: Value = serde_json::from_str(&program.lines()[0]).unwrap();
        Self { program, port: first["port"].as_u64().unwrap() }
    }

    /// Returns the table `[traces]`, with these lines.
    pub fn table(&self, lines: &str) -> String {
        let url = format!("http://127.0.0.1:{}/v1/traces", self.port);
        format!("[traces]\nurl = \"{url}\"\ndelay = \"50ms\"\n{lines}\n")
    }

    /// Sets how it acts from now on.
    pub async fn is(&mut self, mood: &str) {
        self.program.tell(mood);
        let said = format!("{{\"mood\": \"{mood}\"}}");
        let complaint = async || format!("the receiver takes {mood}");
        eventually_or(async || self.program.lines().last() == Some(&said), complaint).await;
    }

    /// Returns the text of everything that it received.
    pub fn text(&self) -> String {
        self.program.lines().join("\n")
    }

    /// Returns the requests that it has read, whatever it answered.
    pub fn requests(&self) -> Vec<Value> {
        let lines = self.program.lines();
        let values = lines.iter().map(|line| serde_json::from_str(line).unwrap());
        let requests: Vec<Value> = values.filter(|value: &Value| value["port"].is_null()).collect();
        for request in &requests {
            assert!(request["broken"].is_null(), "{request}");
            assert_ne!(request["is_known"], Value::Bool(false), "unknown fields: {request}");
        }
        requests.into_iter().filter(|request| request["spans"].is_array()).collect()
    }

    /// Returns the spans of the requests that it answered like this.
    pub fn spans_of(&self, how: &str) -> Vec<Value> {
        let requests = self.requests();
        let requests = requests.iter().filter(|request| request["how"] == how);
        requests.flat_map(|request| request["spans"].as_array().unwrap().clone()).collect()
    }

    /// Waits for the span of a request of this name, and returns it and its children in the order
    /// of their starts.
    pub async fn request(&self, name: &str, index: usize) -> (Value, Vec<Value>) {
        let find = || {
            let spans = self.spans_of("accept");
            let mut roots = spans.iter().filter(|span| span["name"] == name && span["kind"] == 2);
            let root = roots.nth(index)?.clone();
            let is_child = |span: &&Value| {
                span["parent"] == root["span_id"] && span["trace_id"] == root["trace_id"]
            };
            let mut children: Vec<Value> = spans.iter().filter(is_child).cloned().collect();
            children.sort_by_key(|child| child["start"].as_u64());
            Some((root, children))
        };
        let complaint = async || format!("the span {index} of {name}:\n{}", self.text());
        eventually_or(async || find(), complaint).await
    }
}

/// Returns the names of spans.
pub fn names(spans: &[Value]) -> Vec<&str> {
    spans.iter().map(|span| span["name"].as_str().unwrap()).collect()
}
