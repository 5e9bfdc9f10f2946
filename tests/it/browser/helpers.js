// Runs in the page before its own scripts; the test calls these by name.
window.addEventListener('securitypolicyviolation', (event) => {
  tenantryTest.violations.push(`${event.effectiveDirective} ${event.blockedURI}`);
});

window.tenantryTest = {
  violations: [],

  click(selector) {
    const element = document.querySelector(selector);
    element?.click();
    return Boolean(element);
  },

  openTab(title) {
    const tabs = [...document.querySelectorAll('.graphiql-tab-button')];
    const tab = tabs.find((it) => it.textContent === title);
    tab?.click();
    return Boolean(tab);
  },

  /** Whole text of an editor; the DOM only has the lines in view. */
  text(selector) {
    return document.querySelector(`${selector} .CodeMirror`)?.CodeMirror.getValue() ?? '';
  },

  /** Creates a ticket behind GraphiQL's back, as another client would. */
  async createTicket(subject) {
    const json = async (...request) => (await fetch(...request)).json();
    const { token } = await json('/dev/token?user=alice@example.com&org=acme-corp');
    return json('/graphql', {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
      body: JSON.stringify({
        query:
          'mutation ($input: TicketCreateInput!) { ticketCreate(input: $input) { userErrors { message } } }',
        variables: { input: { subject, description: 'From the browser test', priority: 'LOW' } },
      }),
    });
  },
};
