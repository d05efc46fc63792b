"""Since when a cluster's queue is followed without a gap: what was listed before proves nothing."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("inventory", "0005_constraints")]
    operations = [
        migrations.AddField(
            model_name="cluster",
            name="followed_since",
            field=models.DateTimeField(
                null=True,
                blank=True,
                help_text="since when no job can have come and gone unseen",
            ),
        ),
    ]
