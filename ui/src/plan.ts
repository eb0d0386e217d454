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

// The rows that each function of a model will get, by name: those that flow into its batch node; of a function that
// is called in the text but in no batch, those of the whole plan.
export function modelRows(plan: Plan, called: string[]): Map<string, number> {
  const rows = new Map<string, number>();
  (function visit(p: Plan): void {
    for (const name of (p["Custom Plan Provider"] === "Prepack Batch" && (p["Calls"] as string[] | undefined)) || [])
      rows.set(name, (rows.get(name) ?? 0) + (p.Plans?.[0]?.["Plan Rows"] ?? p["Plan Rows"]));
    p.Plans?.forEach(visit);
  })(plan);
  for (const name of called) if (!rows.has(name)) rows.set(name, plan["Plan Rows"]);
  return rows;
}
