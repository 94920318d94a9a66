// A browser that has never had a workflow open begins with the one that this script's address names.
(() => {
    const template = new URL(document.currentScript.src).searchParams.get("template");
    const address = new URL(location.href);
    if (!template || ["template", "share"].some((name) => address.searchParams.has(name))) return;
    try {
        const kept = /^(workflow$|Comfy\.PreviousWorkflow$|Comfy\.Workflow\.)/;
        if ([...Object.keys(localStorage), ...Object.keys(sessionStorage)].some((key) => kept.test(key))) return;
    } catch {
        return; // nothing is kept here, so every visit would be the first
    }
    address.searchParams.set("template", template);
    history.replaceState(history.state, "", address);
})();
