//! How a method's front depends on single parameters: runs with one of them changed, and everything else as chosen.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Study;
use super::runs::Run;

impl Study {
    /// Trains and tests what the study asks for of the methods that are compared; as the study's file has it.
    pub(super) fn sensitivity(&self, methods: &[Value]) -> Result<Vec<Value>> {
        let mut found = vec![];
        for asked in &self.plan.sensitivity {
            let is_compared = methods.iter().any(|method| method["name"] == *asked.method);
            if self.plan.size.sensitivity_seeds.is_empty() || !is_compared {
                continue;
            }
            let method = self.plan.method(&asked.method).context("checked with the plan")?;
            let attempt = self.chosen(method)?.context("its runs are done")?;
            let parts = self.plan.parts(method);
            let mut values = vec![];
            for value in asked.of(&self.plan.size) {
                let more = format!("{}={value}", asked.key);
                let jobs: Vec<Run<'_>> = (self.plan.size.sensitivity_seeds.iter())
                    .flat_map(|&seed| {
                        let more = Some(&*more);
                        parts.iter().map(move |part| Run { method, seed, attempt, part, more })
                    })
                    .collect();
                values.push(json!({ "value": value, "runs": self.tested(&jobs)? }));
            }
            found.push(json!({
                "method": asked.method,
                "parameter": asked.name,
                "values": values,
            }));
        }
        Ok(found)
    }
}
