drop policy tenant on users;
