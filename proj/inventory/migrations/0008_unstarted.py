from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('inventory', '0007_revisions_from_an_index'),
    ]

    operations = [
        migrations.AddField(
            model_name='question',
            name='unstarted_at',
            field=models.DateTimeField(blank=True, help_text='when its job was last known not to have begun', null=True),
        ),
    ]
