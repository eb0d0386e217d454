// plan.ts: EXPLAIN as a tree, and what a plan tells about calls to models.

export interface Plan { "Node Type": string; "Plan Rows": number; "Total Cost": number; Plans?: Plan[]; [key: string]: unknown }

// A node and what is below it.
export function planTree(plan: Plan): HTMLElement {
  const node = document.createElement("details"), title = document.createElement("summary"), facts = document.createElement("dl");
  node.open = true;
  const on = plan["Relation Name"] ?? plan["Index Name"] ?? plan["Custom Plan Provider"];
  title.textContent = `${plan["Node Type"]}${on ? ` · ${on}` : ""} — about ${plan["Plan Rows"].toLocaleString("en")} rows, cost ${plan["Total Cost"].toFixed(0)}`;
  for (const [key, value] of Object.entries(plan)) {
    if (["Node Type", "Plans", "Plan Rows", "Total Cost", "Startup Cost", "Parallel Aware", "Async Capable", "Parent Relationship", "Plan Width"].includes(key)) continue;
    const term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = key;
    text.textContent = typeof value === "object" ? JSON.stringify(value) : String(value);
    facts.append(term, text);
  }
  node.append(title, facts, ...(plan.Plans ?? []).map(planTree));
  return node;
}

// The rows that calls to models will get: those of the batch nodes, or of the whole plan.
export function modelRows(plan: Plan): number {
  const batches: number[] = [];
  (function visit(p: Plan): void {
    if (p["Custom Plan Provider"] === "Prepack Batch") batches.push(p["Plan Rows"]);
    p.Plans?.forEach(visit);
  })(plan);
  return batches.length > 0 ? batches.reduce((a, b) => a + b, 0) : plan["Plan Rows"];
}
